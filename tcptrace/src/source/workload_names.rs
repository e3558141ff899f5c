//! Names of pods and containers, from the files that kubelets and container runtimes leave on their host: no API, no
//! credentials. A container is found by the id in the path of its cgroup.
//!
//! | Names of | File |
//! |---|---|
//! | pods and their containers | `/var/log/containers/POD_NAMESPACE_CONTAINER-ID.log` |
//! | pods | `/var/log/pods/NAMESPACE_POD_UID` |
//! | the same, and the image | `config.json` of an OCI bundle of containerd or CRI-O: its annotations |
//! | containers of Docker | `/var/lib/docker/containers/ID/config.v2.json` |
//! | containers of podman | `containers.json` of its storage, of root and of the user whose slice contains the cgroup |

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Deserialize;

use super::{
    host_files::{self, LastRead},
    users::Users,
};
use crate::model::{
    cgroup::{self, CgroupNames},
    text,
    workload::Workload,
};

const CONTAINER_LOGS: &str = "var/log/containers";
const POD_LOGS: &str = "var/log/pods";
const DOCKER: &str = "var/lib/docker/containers";
/// Folders with an OCI bundle per container, and where its configuration is in there.
const BUNDLES: [(&str, &str); 3] = [
    ("run/containerd/io.containerd.runtime.v2.task/k8s.io", "config.json"),
    ("run/k3s/containerd/io.containerd.runtime.v2.task/k8s.io", "config.json"),
    ("run/containers/storage/overlay-containers", "userdata/config.json"),
];
/// Storage of podman below the home of a user, and of root.
const HOME_STORAGE: &str = ".local/share/containers/storage";
const ROOT_STORAGE: &str = "var/lib/containers/storage";
const STORAGE_DRIVERS: [&str; 3] = ["overlay-containers", "vfs-containers", "btrfs-containers"];
const STORAGE_FILES: [&str; 2] = ["containers.json", "volatile-containers.json"];
/// Longest configuration of a container, and of a storage with all containers.
const MAX_CONFIG_BYTES: u64 = 4 << 20;
const MAX_STORAGE_BYTES: u64 = 16 << 20;
/// Storages that are remembered: those of root and of so many users.
const MAX_STORAGES: usize = 64;

/// Looks up names of workloads.
pub struct WorkloadNames {
    root: PathBuf,
    logs: KubeletLogs,
    storages: HashMap<PathBuf, Storage>,
}

/// The names of a workload, and how many of them a file had.
#[derive(Debug, PartialEq, Eq)]
pub struct FoundWorkload {
    /// The names; at least those in the path.
    pub workload: Workload,
    /// Whether a file of the host named the pod or the container.
    pub is_named: bool,
    /// Whether one named the container: until then it may be looked up again. The kubelet makes the log of a container
    /// after that of its pod, and when it already runs.
    pub is_complete: bool,
}

/// Names found in one place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct ContainerNames {
    pod: Option<String>,
    namespace: Option<String>,
    container: Option<String>,
    image: Option<String>,
}

impl WorkloadNames {
    /// Reads below `root`, where the file system of the host is mounted.
    pub fn below(root: &Path) -> Self {
        Self { root: root.into(), logs: KubeletLogs::default(), storages: HashMap::new() }
    }

    /// The names of the workload whose cgroup has this path; `None` if it is neither a container nor a pod.
    pub fn find(&mut self, path: &str, users: &mut Users) -> Option<FoundWorkload> {
        let names = cgroup::parse(path);
        let container = names.container?;
        let mut found = ContainerNames::default();
        if let Some(uid) = &names.pod_uid {
            found.add(self.logs.pod(&self.root, uid));
        }
        // Only an id can be a part of a path.
        if cgroup::is_id(container.id) {
            found.add(self.logs.container(&self.root, container.id));
            found.add(self.bundle(container.id));
            found.add(self.docker(container.id));
            found.add(self.podman(&names, container.id, users));
        }
        let is_named = found != ContainerNames::default();
        let is_complete = found.container.is_some();
        let mut workload = Workload::from_path(path);
        let set = |name: &mut Option<Arc<str>>, found: Option<String>| {
            if let Some(found) = found {
                *name = Some(text::bounded(&found));
            }
        };
        set(&mut workload.pod, found.pod);
        set(&mut workload.k8s_namespace, found.namespace);
        set(&mut workload.container, found.container);
        set(&mut workload.image, found.image);
        Some(FoundWorkload { workload: workload.labelled(), is_named, is_complete })
    }

    fn bundle(&self, id: &str) -> Option<ContainerNames> {
        #[derive(Deserialize)]
        struct Bundle {
            #[serde(default)]
            annotations: HashMap<String, String>,
        }
        BUNDLES.iter().find_map(|(folder, file)| {
            let path = self.root.join(folder).join(id).join(file);
            let bundle: Bundle = json(&path, MAX_CONFIG_BYTES)?;
            let one_of =
                |names: [&str; 2]| names.iter().find_map(|name| bundle.annotations.get(*name).cloned());
            Some(ContainerNames {
                pod: one_of(["io.kubernetes.cri.sandbox-name", "io.kubernetes.pod.name"]),
                namespace: one_of(["io.kubernetes.cri.sandbox-namespace", "io.kubernetes.pod.namespace"]),
                container: one_of(["io.kubernetes.cri.container-name", "io.kubernetes.container.name"]),
                image: one_of(["io.kubernetes.cri.image-name", "io.kubernetes.cri-o.ImageName"]),
            })
        })
    }

    fn docker(&self, id: &str) -> Option<ContainerNames> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Container {
            name: Option<String>,
            config: Option<DockerConfig>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct DockerConfig {
            image: Option<String>,
            labels: Option<HashMap<String, String>>,
        }
        let path = self.root.join(DOCKER).join(id).join("config.v2.json");
        let container: Container = json(&path, MAX_CONFIG_BYTES)?;
        let name = container.name.map(|name| name.trim_start_matches('/').to_owned());
        let config = container.config;
        let label = |name: &str| config.as_ref()?.labels.as_ref()?.get(name).cloned();
        Some(ContainerNames {
            pod: label("io.kubernetes.pod.name"),
            namespace: label("io.kubernetes.pod.namespace"),
            container: label("io.kubernetes.container.name").or(name).filter(|name| !name.is_empty()),
            image: config.as_ref().and_then(|config| config.image.clone()),
        })
    }

    fn podman(&mut self, names: &CgroupNames<'_>, id: &str, users: &mut Users) -> Option<ContainerNames> {
        let of_root = self.root.join(ROOT_STORAGE);
        let home = names.user.and_then(|uid| users.home(uid));
        let of_user = home.map(|home| self.root.join(home.trim_start_matches('/')).join(HOME_STORAGE));
        [Some(of_root), of_user].into_iter().flatten().find_map(|path| {
            if self.storages.len() >= MAX_STORAGES && !self.storages.contains_key(&path) {
                self.storages.clear();
            }
            self.storages.entry(path).or_insert_with_key(|path| Storage::at(path)).container(id)
        })
    }
}

impl ContainerNames {
    /// Adds names from another place; those found first stay.
    fn add(&mut self, other: Option<Self>) {
        let Some(other) = other else { return };
        self.pod = self.pod.take().or(other.pod);
        self.namespace = self.namespace.take().or(other.namespace);
        self.container = self.container.take().or(other.container);
        self.image = self.image.take().or(other.image);
    }
}

fn json<T: serde::de::DeserializeOwned>(path: &Path, max_bytes: u64) -> Option<T> {
    serde_json::from_slice(&host_files::read(path, max_bytes).ok()?).ok()
}

/// The names of the kubelet's log files, of the last time when a folder changed.
#[derive(Debug, Default)]
struct KubeletLogs {
    containers_read: LastRead,
    by_id: HashMap<String, ContainerNames>,
    pods_read: LastRead,
    by_uid: HashMap<String, ContainerNames>,
}

impl KubeletLogs {
    fn container(&mut self, root: &Path, id: &str) -> Option<ContainerNames> {
        let folder = root.join(CONTAINER_LOGS);
        if self.containers_read.has_changed(&folder) {
            self.by_id = host_files::names(&folder).iter().filter_map(|name| container_log(name)).collect();
        }
        self.by_id.get(id).cloned()
    }

    fn pod(&mut self, root: &Path, uid: &str) -> Option<ContainerNames> {
        let folder = root.join(POD_LOGS);
        if self.pods_read.has_changed(&folder) {
            self.by_uid = host_files::names(&folder).iter().filter_map(|name| pod_log(name)).collect();
        }
        self.by_uid.get(uid).cloned()
    }
}

/// Id and names in `POD_NAMESPACE_CONTAINER-ID.log`. None of the names contains a `_`.
fn container_log(name: &str) -> Option<(String, ContainerNames)> {
    let (names, id) = name.strip_suffix(".log")?.rsplit_once('-')?;
    let [pod, namespace, container] = three(names)?;
    let names = ContainerNames {
        pod: Some(pod.into()),
        namespace: Some(namespace.into()),
        container: Some(container.into()),
        image: None,
    };
    cgroup::is_id(id).then(|| (id.into(), names))
}

/// Uid and names in `NAMESPACE_POD_UID`.
fn pod_log(name: &str) -> Option<(String, ContainerNames)> {
    let [namespace, pod, uid] = three(name)?;
    let names = ContainerNames {
        pod: Some(pod.into()),
        namespace: Some(namespace.into()),
        ..ContainerNames::default()
    };
    Some((uid.into(), names))
}

/// The three parts of a name, none of them empty.
fn three(name: &str) -> Option<[&str; 3]> {
    let mut parts = name.split('_');
    let three = [parts.next()?, parts.next()?, parts.next()?];
    (parts.next().is_none() && three.iter().all(|part| !part.is_empty())).then_some(three)
}

/// Containers in a storage of podman (containers/storage).
#[derive(Debug)]
struct Storage {
    files: Vec<(PathBuf, LastRead, HashMap<String, ContainerNames>)>,
}

impl Storage {
    fn at(path: &Path) -> Self {
        let folders = STORAGE_DRIVERS.iter().map(|driver| path.join(driver));
        let files = folders.flat_map(|folder| STORAGE_FILES.map(|file| folder.join(file)));
        Self { files: files.map(|file| (file, LastRead::default(), HashMap::new())).collect() }
    }

    fn container(&mut self, id: &str) -> Option<ContainerNames> {
        self.files.iter_mut().find_map(|(path, last, by_id)| {
            if last.has_changed(path) {
                *by_id = stored_containers(path).unwrap_or_default();
            }
            by_id.get(id).cloned()
        })
    }
}

fn stored_containers(path: &Path) -> Option<HashMap<String, ContainerNames>> {
    #[derive(Deserialize)]
    struct Stored {
        id: String,
        names: Option<Vec<String>>,
        metadata: Option<String>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "kebab-case")]
    struct Metadata {
        image_name: Option<String>,
    }
    let stored: Vec<Stored> = json(path, MAX_STORAGE_BYTES)?;
    let named = stored.into_iter().filter_map(|stored| {
        let name = stored.names?.into_iter().next()?;
        let metadata =
            stored.metadata.as_deref().and_then(|text| serde_json::from_str::<Metadata>(text).ok());
        let image = metadata.and_then(|metadata| metadata.image_name);
        Some((stored.id, ContainerNames { image, ..names_of_stored(&name) }))
    });
    Some(named.collect())
}

/// CRI-O names a container `k8s_CONTAINER_POD_NAMESPACE_UID_ATTEMPT`.
fn names_of_stored(name: &str) -> ContainerNames {
    let parts: Vec<&str> = name.split('_').collect();
    match parts.as_slice() {
        ["k8s", container, pod, namespace, _, _] => ContainerNames {
            pod: Some((*pod).into()),
            namespace: Some((*namespace).into()),
            container: Some((*container).into()),
            image: None,
        },
        _ => ContainerNames { container: Some(name.into()), ..ContainerNames::default() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "1b2c3d4e-5f60-7182-93a4-b5c6d7e8f901";

    /// A host with files, removed on drop.
    struct HostFiles(PathBuf);

    impl HostFiles {
        fn with(test: &str, files: &[(String, String)]) -> Self {
            let root = std::env::temp_dir().join(format!("tcptrace-workloads-{test}-{}", std::process::id()));
            for (path, content) in files {
                let path = root.join(path);
                std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
                std::fs::write(path, content).expect("a file");
            }
            Self(root)
        }

        fn find(&self, path: &str) -> Option<FoundWorkload> {
            WorkloadNames::below(&self.0).find(path, &mut Users::below(&self.0))
        }

        /// The labels of pod and container, and the image.
        fn names(&self, path: &str) -> [Option<String>; 3] {
            let found = self.find(path).expect("a workload").workload;
            [found.pod_label, found.container_label, found.image]
                .map(|name| name.as_deref().map(str::to_owned))
        }
    }

    impl Drop for HostFiles {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).ok();
        }
    }

    fn id(digit: char) -> String {
        digit.to_string().repeat(64)
    }

    fn some(names: [&str; 3]) -> [Option<String>; 3] {
        names.map(|name| (!name.is_empty()).then(|| name.to_owned()))
    }

    #[test]
    fn the_kubelets_logs_name_pods_and_containers() {
        let (app, pause) = (id('a'), id('b'));
        let host = HostFiles::with(
            "kubelet",
            &[
                (format!("{CONTAINER_LOGS}/checkout-7d9f_shop_app-{app}.log"), String::new()),
                (format!("{CONTAINER_LOGS}/no_container-{app}.log"), String::new()),
                (format!("{CONTAINER_LOGS}/a_b_c_d-{}.log", id('c')), String::new()),
                (format!("{POD_LOGS}/shop_checkout-7d9f_{UID}/app/0.log"), String::new()),
            ],
        );
        let slice = format!("kubepods-burstable-pod{}.slice", UID.replace('-', "_"));
        let app_names = some(["shop/checkout-7d9f", "shop/checkout-7d9f (app)", ""]);
        for path in [
            format!("/kubepods.slice/kubepods-burstable.slice/{slice}/cri-containerd-{app}.scope"),
            format!("/kubepods.slice/kubepods-burstable.slice/{slice}/crio-{app}.scope/container"),
            format!("/kubepods/burstable/pod{UID}/{app}"),
            format!(
                "/system.slice/docker-{}.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-{slice}/cri-containerd-{app}.scope",
                id('f')
            ),
            // cgroup v1 with Docker's own driver.
            format!("/kubepods/burstable/pod{UID}/docker/{app}"),
        ] {
            assert_eq!(host.names(&path), app_names, "{path}");
        }
        // The sandbox has no log, and only the pod has a name.
        let sandbox = format!("/kubepods.slice/{slice}/cri-containerd-{pause}.scope");
        assert!(host.find(&sandbox).is_some_and(|found| found.is_named && !found.is_complete));
        let label = "shop/checkout-7d9f (containerd bbbbbbbbbbbb)";
        assert_eq!(host.names(&sandbox), some(["shop/checkout-7d9f", label, ""]));
        let other = format!("/kubepods/pod{}/{}", UID.replace('1', "2"), id('c'));
        let found = host.find(&other).expect("a workload");
        assert!(!found.is_named);
        assert_eq!(found.workload.pod_label.as_deref(), Some("pod 2b2c3d4e"));
        assert_eq!(host.find("/system.slice/nginx.service"), None);
    }

    #[test]
    fn runtimes_name_their_containers() {
        let [bundle, crio, docker, podman, user] = ['1', '2', '3', '4', '5'].map(id);
        let annotations = r#"{"process": {"env": ["SECRET=1"]}, "annotations": {
            "io.kubernetes.cri.sandbox-name": "pay-0", "io.kubernetes.cri.sandbox-namespace": "shop",
            "io.kubernetes.cri.container-name": "db", "io.kubernetes.cri.image-name": "postgres:17"}}"#;
        let stored = |id: &str, name: &str| {
            format!(
                r#"[{{"id": "{id}", "names": ["{name}"], "metadata": "{{\"image-name\":\"debian:13\",\"name\":\"x\"}}"}}]"#
            )
        };
        let host = HostFiles::with(
            "runtimes",
            &[
                (format!("{}/{bundle}/config.json", BUNDLES[0].0), annotations.into()),
                (
                    format!("{DOCKER}/{docker}/config.v2.json"),
                    r#"{"Name": "/web-1", "Config": {"Image": "nginx:1", "Labels": null}}"#.into(),
                ),
                (format!("{ROOT_STORAGE}/overlay-containers/containers.json"), stored(&podman, "cache")),
                (
                    format!("{ROOT_STORAGE}/vfs-containers/volatile-containers.json"),
                    stored(&crio, &format!("k8s_app_checkout_shop_{UID}_0")),
                ),
                (
                    "etc/passwd".into(),
                    "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n".into(),
                ),
                (format!("home/ann/{HOME_STORAGE}/vfs-containers/containers.json"), stored(&user, "mine")),
            ],
        );
        for (path, expected) in [
            (format!("/kubepods/pod{UID}/{bundle}"), ["shop/pay-0", "shop/pay-0 (db)", "postgres:17"]),
            (format!("/system.slice/docker-{docker}.scope"), ["", "web-1", "nginx:1"]),
            (format!("/docker/{docker}"), ["", "web-1", "nginx:1"]),
            (format!("/machine.slice/libpod-{podman}.scope/container"), ["", "cache", "debian:13"]),
            (format!("/libpod_parent/libpod-{podman}"), ["", "cache", "debian:13"]),
            (
                format!("/kubepods.slice/crio-{crio}.scope"),
                ["shop/checkout", "shop/checkout (app)", "debian:13"],
            ),
            (
                format!("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{user}.scope"),
                ["", "mine", "debian:13"],
            ),
            // Another user's container.
            (
                format!("/user.slice/user-1001.slice/user@1001.service/user.slice/libpod-{user}.scope"),
                ["", "podman 555555555555", ""],
            ),
            ("/lxc.payload.web/init.scope".into(), ["", "web", ""]),
        ] {
            assert_eq!(host.names(&path), some(expected), "{path}");
        }
    }

    #[test]
    fn hostile_names_are_only_text() {
        let (docker, podman, broken) = (id('a'), id('b'), id('c'));
        let long = "x".repeat(10_000);
        let host = HostFiles::with(
            "hostile",
            &[
                (
                    format!("{DOCKER}/{docker}/config.v2.json"),
                    r#"{"Name": "/..\/\u001b[2J\n\"'", "Config": {"Image": "../../etc/shadow"}}"#.into(),
                ),
                (
                    format!("{ROOT_STORAGE}/overlay-containers/containers.json"),
                    format!(r#"[{{"id": "{podman}", "names": ["{long}"], "metadata": "no JSON"}}]"#),
                ),
                (format!("{DOCKER}/{broken}/config.v2.json"), "[".repeat(100_000)),
                ("etc/passwd".into(), "ann:x:1000:1000::../../..:/bin/sh\n\n:::\n".into()),
            ],
        );
        let names = host.names(&format!("/docker/{docker}"));
        assert_eq!(names, some(["", "../?[2J?\"'", "../../etc/shadow"]));
        let [_, container, _] = host.names(&format!("/libpod_parent/libpod-{podman}"));
        assert_eq!(container.map(|name| name.len()), Some(text::MAX_NAME_BYTES));
        assert_eq!(host.names(&format!("/docker/{broken}"))[1].as_deref(), Some("docker cccccccccccc"));
        // Neither an id nor a path.
        for path in ["/docker/../../etc/passwd", "/lxc/..", "/user-1000.slice/libpod-../x.scope"] {
            assert!(host.find(path).is_none_or(|found| !found.is_named), "{path}");
        }
    }

    #[test]
    fn a_container_that_appears_later_is_found() {
        let host = HostFiles::with("later", &[(format!("{CONTAINER_LOGS}/x"), String::new())]);
        let mut names = WorkloadNames::below(&host.0);
        let mut users = Users::below(&host.0);
        let path = format!("/kubepods/pod{UID}/{}", id('a'));
        assert!(names.find(&path, &mut users).is_some_and(|found| !found.is_named));
        let log = host.0.join(format!("{CONTAINER_LOGS}/p_n_c-{}.log", id('a')));
        std::fs::write(log, "").expect("a file");
        let found = names.find(&path, &mut users).expect("a workload");
        assert_eq!((found.is_complete, found.workload.shown()), (true, Some("n/p (c)")));
    }
}
