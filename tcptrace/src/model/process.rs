//! A process that owns sockets: what its records say, its program and user, and its workload.

use std::{borrow::Cow, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{text, workload::Workload};

/// A process that holds a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Process id in the initial pid namespace (tgid).
    pub pid: u32,
    /// Its kernel name (`/proc/PID/comm`), at most 15 bytes. Untrusted.
    pub comm: Arc<str>,
    /// cgroup v2 id, 0 when unknown.
    pub cgroup: u64,
    /// Its program and user, if known.
    pub facts: Option<Arc<ProcessFacts>>,
    /// The workload of its cgroup, if known.
    pub workload: Option<Arc<Workload>>,
}

impl Process {
    /// A process of which only the fields of a record are known.
    pub fn new(pid: u32, comm: impl Into<Arc<str>>, cgroup: u64) -> Self {
        Self { pid, comm: comm.into(), cgroup, facts: None, workload: None }
    }

    /// The container, pod or unit that it runs in, if known.
    pub fn workload(&self) -> Option<&Arc<Workload>> {
        self.facts.as_ref().and_then(|facts| facts.workload.as_ref()).or(self.workload.as_ref())
    }

    /// The name for people: of its workload, else its own; sanitised.
    pub fn shown(&self) -> Cow<'_, str> {
        match self.workload().and_then(|workload| workload.shown()) {
            Some(name) => Cow::Borrowed(name),
            None => self.command_or_comm(),
        }
    }

    /// The first word of its command line, if it was read, else its kernel name; sanitised.
    pub fn command_or_comm(&self) -> Cow<'_, str> {
        match self.facts.as_ref().and_then(|facts| facts.command.as_deref()) {
            Some(command) => Cow::Borrowed(command),
            None => text::sanitise(&self.comm),
        }
    }
}

/// The first 16 bytes of a kernel name, padded with NUL: a key.
pub fn comm_key(comm: &str) -> [u8; 16] {
    let mut key = [0; 16];
    let length = comm.len().min(key.len());
    key[..length].copy_from_slice(&comm.as_bytes()[..length]);
    key
}

/// The same of a task, as a recording has it: records find the process by its sanitised name.
pub fn comm_of_task(comm: &[u8; 16]) -> [u8; 16] {
    let is_plain = comm.iter().all(|byte| matches!(byte, b' '..=b'~' | 0));
    if is_plain { *comm } else { comm_key(&text::from_kernel(comm)) }
}

/// The program and the user of a process, read when it becomes known as an owner. All texts are sanitised and bounded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessFacts {
    /// Path of the program, as the process sees it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exe: Option<Arc<str>>,
    /// Effective user id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Name of this user on the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<Arc<str>>,
    /// Kernel name of the first thread.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Arc<str>>,
    /// The interpreter and the first word after it: `python3 /srv/app/worker.py`; only on request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Arc<str>>,
    /// Its parent, the parent of that, and so on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parents: Vec<ParentProcess>,
    /// Its workload, where the cgroup id does not lead to it: only cgroup v1 has its container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<Arc<Workload>>,
    /// `www-data (33)`, or only the number.
    #[serde(skip)]
    pub user_label: Option<Arc<str>>,
}

/// A process in a chain of parents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParentProcess {
    /// Process id.
    pub pid: u32,
    /// Kernel name.
    pub comm: Arc<str>,
}

impl ProcessFacts {
    /// Sets the labels that follow from the other fields.
    #[must_use]
    pub fn labelled(mut self) -> Self {
        self.user_label = self.uid.map(|uid| match &self.user {
            Some(user) => format!("{user} ({uid})").into(),
            None => uid.to_string().into(),
        });
        self.workload = self.workload.take().map(|workload| Workload::clone(&workload).labelled().into());
        self
    }

    /// The same with every text sanitised and bounded, from a file.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        for name in [&mut self.exe, &mut self.user, &mut self.name, &mut self.command].into_iter().flatten() {
            *name = text::bounded(name);
        }
        for parent in &mut self.parents {
            parent.comm = text::bounded(&parent.comm);
        }
        self.workload = self.workload.take().map(|workload| Workload::clone(&workload).bounded().into());
        self.labelled()
    }
}

/// A name of a process by which sockets are grouped and filtered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NameKind {
    /// Kubernetes pod.
    Pod,
    /// Container.
    Container,
    /// Kubernetes namespace.
    K8sNamespace,
    /// systemd unit.
    Unit,
    /// Path of the program.
    Exe,
    /// User.
    Uid,
}

impl NameKind {
    /// The word of keys, filters and flags.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::Container => "container",
            Self::K8sNamespace => "k8s-namespace",
            Self::Unit => "unit",
            Self::Exe => "exe",
            Self::Uid => "uid",
        }
    }

    /// The name of `process` as a group; `None` if it has none, or if it is not known yet.
    pub fn of(self, process: &Process) -> Option<&Arc<str>> {
        let facts = process.facts.as_ref();
        let workload = process.workload();
        match self {
            Self::Pod => workload?.pod_label.as_ref(),
            Self::Container => workload?.container_label.as_ref(),
            Self::K8sNamespace => workload?.k8s_namespace.as_ref(),
            Self::Unit => workload?.unit.as_ref(),
            Self::Exe => facts?.exe.as_ref(),
            Self::Uid => facts?.user_label.as_ref(),
        }
    }

    /// Whether it is known that `process` has no such name.
    pub fn is_absent(self, process: &Process) -> bool {
        match self {
            Self::Pod | Self::Container | Self::K8sNamespace | Self::Unit => process.workload().is_some(),
            Self::Exe | Self::Uid => false,
        }
    }

    /// Whether `is_match` holds for one of the names that a filter may give: a pod with or without its namespace, a
    /// program with or without its folder, a user by name or number.
    pub fn any(self, process: &Process, is_match: impl Fn(&str) -> bool) -> bool {
        let also: Option<Cow<'_, str>> = match self {
            Self::Pod => process.workload().and_then(|workload| workload.pod.as_deref()).map(Cow::Borrowed),
            Self::Container => {
                process.workload().and_then(|workload| workload.container.as_deref()).map(Cow::Borrowed)
            }
            Self::Exe => self.of(process).and_then(|exe| exe.rsplit('/').next()).map(Cow::Borrowed),
            Self::Uid => {
                let facts = process.facts.as_ref();
                if facts.and_then(|facts| facts.user.as_deref()).is_some_and(&is_match) {
                    return true;
                }
                facts.and_then(|facts| facts.uid).map(|uid| Cow::Owned(uid.to_string()))
            }
            Self::K8sNamespace | Self::Unit => None,
        };
        self.of(process).is_some_and(|name| is_match(name)) || also.is_some_and(|name| is_match(&name))
    }
}
