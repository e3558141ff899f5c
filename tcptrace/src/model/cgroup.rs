//! Finds the container, the pod and the systemd unit in the path of a cgroup.

use super::text;

/// A container id is cut to the length that container tools show.
const ID_SHOWN: usize = 12;
const POD_SHOWN: usize = 8;

/// The names in the path of a cgroup.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CgroupNames<'a> {
    /// The innermost container.
    pub container: Option<ContainerId<'a>>,
    /// The uid of its pod, with dashes.
    pub pod_uid: Option<String>,
    /// Without a container: the innermost systemd service or scope, else the innermost slice.
    pub unit: Option<String>,
    /// The user whose slice (`user-1000.slice`) contains it.
    pub user: Option<u32>,
}

/// A container as its cgroup names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContainerId<'a> {
    /// The runtime; `pod` if only the pod is known.
    pub runtime: &'static str,
    /// The id: 64 hexadecimal digits, or a name (LXC).
    pub id: &'a str,
}

impl ContainerId<'_> {
    /// The id, cut as container tools show it.
    pub fn shown(&self) -> &str {
        if is_id(self.id) { &self.id[..ID_SHOWN] } else { self.id }
    }
}

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

/// Finds the names in `path`.
pub fn parse(path: &str) -> CgroupNames<'_> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let user = parts.iter().find_map(|part| part.strip_prefix("user-")?.strip_suffix(".slice")?.parse().ok());
    match container(&parts) {
        Some((depth, container)) => {
            let pod_uid = parts[..depth].iter().rev().find_map(|part| pod_uid(part));
            CgroupNames { container: Some(container), pod_uid, unit: None, user }
        }
        None => CgroupNames { unit: unit(&parts), user, ..CgroupNames::default() },
    }
}

/// Sanitised short name of the cgroup at `path`: `docker 0f3c2d4e5a6b`, `nginx.service`.
pub fn name(path: &str) -> String {
    let names = parse(path);
    let pod = names.pod_uid.as_ref().map(|uid| &uid[..POD_SHOWN]);
    let name = match (names.container, pod) {
        (Some(container), Some(pod)) if container.runtime == "pod" => {
            format!("pod {pod} {}", container.shown())
        }
        (Some(container), Some(pod)) => format!("{} {} pod {pod}", container.runtime, container.shown()),
        (Some(container), None) => format!("{} {}", container.runtime, container.shown()),
        (None, _) => names.unit.unwrap_or_else(|| {
            let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
            format!("/{}", parts.join("/"))
        }),
    };
    text::sanitise(&name).into_owned()
}

/// The innermost part that names a container, and its depth.
fn container<'a>(parts: &[&'a str]) -> Option<(usize, ContainerId<'a>)> {
    parts.iter().enumerate().rev().find_map(|(depth, part)| {
        let stem = part.strip_suffix(".scope").unwrap_or(part);
        let by_prefix = RUNTIMES.iter().find_map(|(prefix, runtime)| {
            // `libpod-conmon-ID` is podman's monitor process, not the container.
            stem.strip_prefix(prefix).filter(|id| !id.starts_with("conmon")).map(|id| (*runtime, id))
        });
        let parent = depth.checked_sub(1).map(|above| parts[above]);
        let by_folder = || {
            let parent = parent?;
            let of_folder = FOLDERS.iter().find(|(folder, _)| *folder == parent).map(|(_, runtime)| *runtime);
            let runtime = of_folder.or_else(|| pod_uid(parent).map(|_| "pod"))?;
            (runtime == "lxc" || is_id(stem)).then_some((runtime, stem))
        };
        let (runtime, id) = by_prefix.or_else(by_folder)?;
        Some((depth, ContainerId { runtime, id }))
    })
}

/// The uid in `kubepods-burstable-pod0f3c_.slice` or `pod0f3c-...`. The name of a nested kubelet (kind) begins with
/// `kubelet-kubepods`.
fn pod_uid(part: &str) -> Option<String> {
    let stem = part.strip_suffix(".slice").unwrap_or(part);
    let uid = if stem.starts_with("kubepods-") || stem.starts_with("kubelet-kubepods-") {
        stem.rsplit_once("pod")?.1
    } else {
        stem.strip_prefix("pod")?
    };
    let is_uid = uid.get(..POD_SHOWN)?.bytes().all(|byte| byte.is_ascii_hexdigit())
        && uid.bytes().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b'-' | b'_'));
    is_uid.then(|| uid.replace('_', "-"))
}

/// Whether `text` looks like a container id.
pub fn is_id(text: &str) -> bool {
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
            (
                format!(
                    "/system.slice/docker-{ID}.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod1b2c3d4e_5f60.slice/cri-containerd-{ID}.scope"
                ),
                "containerd 0f3c2d4e5a6b pod 1b2c3d4e",
            ),
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

    #[test]
    fn a_path_names_pod_and_user_in_full() {
        let id = "0f3c2d4e".repeat(8);
        let path = format!("/kubepods.slice/kubepods-pod1b2c3d4e_5f60_7182.slice/crio-{id}.scope");
        let names = parse(&path);
        assert_eq!(names.pod_uid.as_deref(), Some("1b2c3d4e-5f60-7182"));
        assert_eq!(names.container.map(|container| container.id), Some(&*id));
        let names = parse("/user.slice/user-1000.slice/user@1000.service/app.slice/web.service");
        assert_eq!((names.user, names.unit.as_deref()), (Some(1000), Some("web.service")));
        // Not hexadecimal, and no boundary of a character where one is cut.
        assert_eq!(parse("/kubepods/pod1b2c3d4é/x").pod_uid, None);
        assert_eq!(parse("/").unit, None);
    }
}
