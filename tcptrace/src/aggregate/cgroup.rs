//! Workload name from a cgroup path: container, pod or systemd unit.

use crate::model::text;

/// A container id is cut to the length that container tools show.
const ID_SHOWN: usize = 12;
const POD_SHOWN: usize = 8;

/// Scope name prefix of each container runtime.
const RUNTIMES: [(&str, &str); 7] = [
    ("docker-", "docker"),
    ("cri-containerd-", "containerd"),
    ("containerd-", "containerd"),
    ("libpod-payload-", "podman"),
    ("libpod-", "podman"),
    ("crio-", "cri-o"),
    ("lxc.payload.", "lxc"),
];

/// Parent folders that runtimes without systemd use for containers.
const FOLDERS: [(&str, &str); 4] =
    [("docker", "docker"), ("lxc", "lxc"), ("libpod_parent", "podman"), ("machine.slice", "machine")];

/// Sanitised short name of the cgroup at `path`: `docker 0f3c2d4e5a6b`, `nginx.service`.
pub(super) fn name(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let name = container(&parts).or_else(|| unit(&parts)).unwrap_or_else(|| format!("/{}", parts.join("/")));
    text::sanitise(&name).into_owned()
}

/// The innermost part that names a container.
fn container(parts: &[&str]) -> Option<String> {
    for (depth, part) in parts.iter().enumerate().rev() {
        let stem = part.strip_suffix(".scope").unwrap_or(part);
        let by_prefix = RUNTIMES.iter().find_map(|(prefix, runtime)| {
            // `libpod-conmon-ID` is podman's monitor process, not the container.
            stem.strip_prefix(prefix).filter(|id| !id.starts_with("conmon")).map(|id| (*runtime, id))
        });
        let parent = depth.checked_sub(1).map(|above| parts[above]);
        let by_folder = || {
            let parent = parent?;
            let of_folder = FOLDERS.iter().find(|(folder, _)| *folder == parent).map(|(_, runtime)| *runtime);
            let runtime = of_folder.or_else(|| pod(parent).map(|_| "pod"))?;
            (runtime == "lxc" || is_id(stem)).then_some((runtime, stem))
        };
        let Some((runtime, id)) = by_prefix.or_else(by_folder) else { continue };
        let id = if is_id(id) { &id[..ID_SHOWN] } else { id };
        let pod = parts[..depth].iter().rev().find_map(|part| pod(part));
        return Some(match pod {
            Some(pod) if runtime == "pod" => format!("pod {pod} {id}"),
            Some(pod) => format!("{runtime} {id} pod {pod}"),
            None => format!("{runtime} {id}"),
        });
    }
    None
}

/// The start of a pod's uid in `kubepods-burstable-pod0f3c_.slice` or `pod0f3c-...`.
fn pod(part: &str) -> Option<&str> {
    let stem = part.strip_suffix(".slice").unwrap_or(part);
    let uid = match stem.strip_prefix("kubepods-") {
        Some(rest) => rest.rsplit_once("pod").map_or(rest, |(_, uid)| uid),
        None => stem.strip_prefix("pod")?,
    };
    let shown = uid.get(..POD_SHOWN)?;
    shown.bytes().all(|byte| byte.is_ascii_hexdigit()).then_some(shown)
}

/// Whether `text` looks like a container id.
fn is_id(text: &str) -> bool {
    text.len() >= 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The innermost systemd service or scope, unescaped; else the innermost slice.
fn unit(parts: &[&str]) -> Option<String> {
    let innermost = |kinds: &[&str]| {
        let is_of = |part: &str| part.rsplit_once('.').is_some_and(|(_, kind)| kinds.contains(&kind));
        parts.iter().rev().find(|part| is_of(part))
    };
    innermost(&["service", "scope"]).or_else(|| innermost(&["slice"])).map(|unit| unescape(unit))
}

/// Undoes systemd's `\x2d` (`unit_name_escape()`).
fn unescape(unit: &str) -> String {
    let mut plain = String::with_capacity(unit.len());
    let mut rest = unit;
    while let Some(at) = rest.find("\\x") {
        plain.push_str(&rest[..at]);
        let code = rest.get(at + 2..at + 4).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        let Some(byte) = code.filter(u8::is_ascii) else {
            plain.push_str("\\x");
            rest = &rest[at + 2..];
            continue;
        };
        plain.push(byte.into());
        rest = &rest[at + 4..];
    }
    plain.push_str(rest);
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_and_units_are_named() {
        const ID: &str = "0f3c2d4e5a6b7c8d9e0f0f3c2d4e5a6b7c8d9e0f0f3c2d4e5a6b7c8d9e0f0123";
        let pod = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1b2c3d4e_5f60_7182.slice";
        let cases = [
            (format!("/system.slice/docker-{ID}.scope"), "docker 0f3c2d4e5a6b"),
            (format!("/docker/{ID}"), "docker 0f3c2d4e5a6b"),
            (format!("/docker/{ID}/system.slice/nginx.service"), "docker 0f3c2d4e5a6b"),
            (format!("/{pod}/cri-containerd-{ID}.scope"), "containerd 0f3c2d4e5a6b pod 1b2c3d4e"),
            (format!("/{pod}/crio-{ID}.scope/container"), "cri-o 0f3c2d4e5a6b pod 1b2c3d4e"),
            (format!("/kubepods/besteffort/pod1b2c3d4e-5f60-7182/{ID}"), "pod 1b2c3d4e 0f3c2d4e5a6b"),
            (format!("/machine.slice/libpod-{ID}.scope"), "podman 0f3c2d4e5a6b"),
            (format!("/machine.slice/libpod-conmon-{ID}.scope"), &format!("libpod-conmon-{ID}.scope")),
            ("/lxc.payload.web/init.scope".into(), "lxc web"),
            ("/lxc/web".into(), "lxc web"),
            ("/system.slice/nginx.service".into(), "nginx.service"),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/app-a\\x2db.scope".into(),
                "app-a-b.scope",
            ),
            ("/system.slice/bad\\xzz\\x1b[2J.service".into(), "bad\\xzz?[2J.service"),
            ("/user.slice".into(), "user.slice"),
            ("/batch/job-7".into(), "/batch/job-7"),
            ("/".into(), "/"),
            ("/\u{1b}[2Jevil".into(), "/?[2Jevil"),
            ("/docker/x\\x".into(), "/docker/x\\x"),
        ];
        for (path, expected) in cases {
            assert_eq!(name(&path), expected, "{path}");
        }
    }
}
