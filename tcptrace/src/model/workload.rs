//! A workload: the pod and container, or the systemd unit, that a process runs in.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{cgroup, text};

/// The names of a workload, as far as they are known. All are sanitised and bounded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    /// Container runtime: `docker`, `containerd`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<Arc<str>>,
    /// Kubernetes pod; `pod` and the beginning of its uid if only that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Arc<str>>,
    /// Kubernetes namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub k8s_namespace: Option<Arc<str>>,
    /// Container; runtime and beginning of its id if only that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<Arc<str>>,
    /// Image of the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Arc<str>>,
    /// systemd unit, of a process in no container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<Arc<str>>,
    /// `shop/checkout-7d9f`.
    #[serde(skip)]
    pub pod_label: Option<Arc<str>>,
    /// `shop/checkout-7d9f (app)`, or the name of a container in no pod.
    #[serde(skip)]
    pub container_label: Option<Arc<str>>,
}

impl Workload {
    /// The names that the path of a cgroup contains.
    pub fn from_path(path: &str) -> Self {
        let names = cgroup::parse(path);
        let mut workload = Self { unit: names.unit.as_deref().map(text::bounded), ..Self::default() };
        if let Some(container) = names.container {
            let name = match container.runtime {
                "lxc" | "pod" => container.shown().to_owned(),
                runtime => format!("{runtime} {}", container.shown()),
            };
            workload.container = Some(text::bounded(&name));
            workload.runtime = (container.runtime != "pod").then(|| container.runtime.into());
        }
        workload.pod = names.pod_uid.and_then(|uid| Some(format!("pod {}", uid.get(..8)?).into()));
        workload.labelled()
    }

    /// Sets the labels that follow from the other fields.
    #[must_use]
    pub fn labelled(mut self) -> Self {
        self.pod_label = self.pod.as_ref().map(|pod| match &self.k8s_namespace {
            Some(namespace) => format!("{namespace}/{pod}").into(),
            None => Arc::clone(pod),
        });
        self.container_label = self.container.as_ref().map(|container| match &self.pod_label {
            Some(pod) => format!("{pod} ({container})").into(),
            None => Arc::clone(container),
        });
        self
    }

    /// The same with every text sanitised and bounded, from a file.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        let Self { runtime, pod, k8s_namespace, container, image, unit, .. } = &mut self;
        for name in [runtime, pod, k8s_namespace, container, image, unit].into_iter().flatten() {
            *name = text::bounded(name);
        }
        self.labelled()
    }

    /// Whether it is a pod or a container.
    pub const fn is_container(&self) -> bool {
        self.container.is_some() || self.pod.is_some()
    }

    /// The name for people: container, pod, or a unit that is a service. Scopes and slices contain programs of all
    /// kinds, and `user@1000.service` all programs of a user.
    pub fn shown(&self) -> Option<&str> {
        let unit = self.unit.as_deref();
        let service = unit.filter(|unit| unit.ends_with(".service") && !unit.starts_with("user@"));
        self.container_label.as_deref().or(self.pod_label.as_deref()).or(service)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_gives_names_without_any_file() {
        let id = "0f3c2d4e".repeat(8);
        let shown = |path: &str| Workload::from_path(path).shown().map(str::to_owned);
        for (path, expected) in [
            (format!("/system.slice/docker-{id}.scope"), Some("docker 0f3c2d4e0f3c")),
            (format!("/kubepods/pod1b2c3d4e-5f60/{id}"), Some("pod 1b2c3d4e (0f3c2d4e0f3c)")),
            ("/lxc.payload.web/init.scope".into(), Some("web")),
            ("/system.slice/nginx.service".into(), Some("nginx.service")),
            ("/user.slice/user-0.slice/session-3.scope".into(), None),
            ("/user.slice/user-0.slice/user@0.service".into(), None),
            ("/".into(), None),
        ] {
            assert_eq!(shown(&path).as_deref(), expected, "{path}");
        }
        assert_eq!(
            Workload::from_path("/user.slice/session-3.scope").unit.as_deref(),
            Some("session-3.scope")
        );
    }

    #[test]
    fn names_from_a_file_are_sanitised_and_bounded() {
        let hostile = Workload {
            pod: Some("\u{1b}[2J\n".into()),
            k8s_namespace: Some("../..".into()),
            container: Some("x".repeat(10_000).into()),
            ..Workload::default()
        };
        let workload = hostile.bounded();
        assert_eq!(workload.pod_label.as_deref(), Some("../../?[2J?"));
        assert_eq!(workload.container.map(|name| name.len()), Some(text::MAX_NAME_BYTES));
    }
}
