//! The Helm chart and the manifest: in, their folders; out, whether Helm and the schemas of Kubernetes accept them, and the
//! manifest is the chart with its default values.

use anyhow::Result;

use super::python;
use crate::command;
use crate::repo::Repo;

/// Helm as a library, and Kubernetes' schemas: the only forms of both that a package registry has.
const PACKAGES: [(&str, &str); 2] =
    [("helm_python", "helm-python-sdk"), ("kubernetes_validate", "kubernetes-validate")];

pub fn check(repo: &Repo) -> Result<()> {
    for (module, package) in PACKAGES {
        python(repo, module, package)?;
    }
    let (module, package) = PACKAGES[0];
    let mut check = python(repo, module, package)?;
    check.arg(repo.root.join("xtask/src/dist/check/chart.py"));
    check
        .arg(repo.root.join("contrib/helm/tcptrace"))
        .arg(repo.root.join("contrib/kubernetes/tcptrace.yaml"));
    command::run(&mut check)
}
