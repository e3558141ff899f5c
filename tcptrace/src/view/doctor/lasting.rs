//! The form of a setting that outlasts a reboot or a new container: a sysctl file on the host, the fields of a pod and the
//! flag of a container elsewhere. `sysctl -w` lasts until then only.

use super::text::apart;

/// Settings of a network namespace that Kubernetes lets every pod set, with the release from which on it does (empty: all
/// supported releases).
const SAFE: [(&str, &str); 11] = [
    ("net.ipv4.ip_local_port_range", ""),
    ("net.ipv4.ip_local_reserved_ports", "1.27"),
    ("net.ipv4.ip_unprivileged_port_start", ""),
    ("net.ipv4.ping_group_range", ""),
    ("net.ipv4.tcp_fin_timeout", "1.29"),
    ("net.ipv4.tcp_keepalive_intvl", "1.29"),
    ("net.ipv4.tcp_keepalive_probes", "1.29"),
    ("net.ipv4.tcp_keepalive_time", "1.29"),
    ("net.ipv4.tcp_rmem", "1.32"),
    ("net.ipv4.tcp_syncookies", ""),
    ("net.ipv4.tcp_wmem", "1.32"),
];
/// Not safe: the kubelet must allow it.
const NEVER: &str = "-";

/// The lasting form of each setting that the steps of `fix` set.
pub fn lasting(fix: &[String]) -> Vec<String> {
    let mut lines = Vec::new();
    for step in fix {
        let (words, command) = apart(step);
        // Such a step only names the default.
        if words.starts_with("Nothing") || words.starts_with("No action") {
            continue;
        }
        let Some((place, setting)) = command.split_once("sysctl -w ") else { continue };
        let setting = setting.split('#').next().unwrap_or_default().split(" (PID").next().unwrap_or_default();
        let Some((name, value)) = setting.trim().split_once('=') else { continue };
        for line in forms(place, name, value.trim_matches('"')) {
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
    }
    lines
}

fn forms(place: &str, name: &str, value: &str) -> Vec<String> {
    if place.is_empty() {
        return vec![format!("/etc/sysctl.d/90-tcptrace.conf: {name} = {value}   # then: sysctl --system")];
    }
    let since = SAFE.iter().find(|(safe, _)| *safe == name).map_or(NEVER, |&(_, since)| since);
    let safe = match since {
        NEVER => format!("not a safe sysctl: kubelet --allowed-unsafe-sysctls={name}"),
        "" => "a safe sysctl".to_owned(),
        since => format!("a safe sysctl since Kubernetes {since}"),
    };
    let flag = if value.contains(' ') { format!("\"{name}={value}\"") } else { format!("{name}={value}") };
    vec![
        format!("pod: securityContext: {{sysctls: [{{name: {name}, value: \"{value}\"}}]}}   # {safe}"),
        format!("container: --sysctl {flag}"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(steps: &[&str]) -> Vec<String> {
        lasting(&steps.iter().map(|&step| step.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn the_host_gets_a_sysctl_file() {
        let steps =
            ["In the application: a pool.", "Then: sysctl -w net.ipv4.ip_local_port_range=\"10240 65535\""];
        assert_eq!(
            of(&steps),
            [
                "/etc/sysctl.d/90-tcptrace.conf: net.ipv4.ip_local_port_range = 10240 65535   # then: sysctl --system"
            ]
        );
        assert!(of(&["No action needed; to change it: sysctl -w net.ipv4.tcp_rfc1337=0"]).is_empty());
    }

    #[test]
    fn a_pod_gets_a_security_context_and_whether_it_may_have_it() {
        let set = |setting: &str| of(&[&format!("nsenter -t 4711 -n sysctl -w {setting}")]);
        assert_eq!(
            set("net.ipv4.tcp_tw_reuse=1"),
            [
                "pod: securityContext: {sysctls: [{name: net.ipv4.tcp_tw_reuse, value: \"1\"}]}   # not a safe sysctl: \
                 kubelet --allowed-unsafe-sysctls=net.ipv4.tcp_tw_reuse",
                "container: --sysctl net.ipv4.tcp_tw_reuse=1",
            ]
        );
        assert!(set("net.ipv4.tcp_fin_timeout=15")[0].ends_with("# a safe sysctl since Kubernetes 1.29"));
        let range = set("net.ipv4.ip_local_port_range=\"10240 65535\" (PID: any process in netns 7)");
        assert!(range[0].ends_with("value: \"10240 65535\"}]}   # a safe sysctl"), "{range:?}");
        assert_eq!(range[1], "container: --sysctl \"net.ipv4.ip_local_port_range=10240 65535\"");
    }
}
