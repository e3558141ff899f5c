"""Lints the chart, renders it, and validates what it renders and the manifest against the schemas of Kubernetes."""
import sys

import helm_python as helm
import kubernetes_validate
import yaml

chart_folder, manifest_path = sys.argv[1:]
RELEASE = {"name": "tcptrace", "namespace": "monitoring"}
# The oldest version that the chart admits and has schemas, and the newest.
VERSIONS = ["1.25", kubernetes_validate.latest_version()]
EVERYTHING = {
    "listen": {"address": "0.0.0.0", "port": 9999},
    "by": ["comm", "state"],
    "extraArgs": ["--filter", "rport 5432"],
    "imagePullSecrets": [{"name": "registry"}],
    "resources": {"limits": {"memory": "256Mi"}},
    "tolerations": [{"key": "dedicated", "operator": "Exists", "effect": "NoSchedule"}],
    "nodeSelector": {"kubernetes.io/arch": "arm64"},
    "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchExpressions": [{"key": "pool", "operator": "In", "values": ["edge"]}]}]}}},
    "priorityClassName": "system-node-critical",
    "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "10%"}},
    "podAnnotations": {"example.org/a": "1"},
    "podLabels": {"team": "net"},
    "podMonitor": {"enabled": True, "interval": "30s", "labels": {"release": "prometheus"}},
    "serviceMonitor": {"enabled": True},
}


def rendered(chart, values):
    texts = chart.render(values, **RELEASE)
    pages = [text for name, text in texts.items() if name.endswith(".yaml")]
    return [document for page in pages for document in yaml.safe_load_all(page) if document]


def named(documents, kind):
    return next(document for document in documents if document["kind"] == kind)


def validate(documents):
    for document in documents:
        # Kubernetes has no schema of the operator's kinds.
        if not document["apiVersion"].startswith("monitoring.coreos.com/"):
            for version in VERSIONS:
                kubernetes_validate.validate(document, version, strict=True)


lint = helm.lint(chart_folder, strict=True)
faults = [message for message in lint["messages"] if message["severity"] > 1] + lint["errors"]
assert not faults, faults

manifest = yaml.safe_load(open(manifest_path))
validate([manifest])
with helm.Chart.load(chart_folder) as chart:
    plain, everything = rendered(chart, {}), rendered(chart, EVERYTHING)
    for wrong in [{"listen": {"port": 0}}, {"by": []}, {"tolerations": "all"}, {"misspelt": 1}]:
        try:
            chart.validate_schema(wrong)
        except helm.HelmError:
            continue
        raise AssertionError(f"the chart accepts {wrong}")
validate(plain + everything)
assert [document["kind"] for document in plain] == ["DaemonSet"], plain
assert sorted(document["kind"] for document in everything) == [
    "DaemonSet", "PodMonitor", "Service", "ServiceMonitor"], everything

# The manifest is the chart with its default values, except for the labels.
pod = named(plain, "DaemonSet")["spec"]["template"]["spec"]
assert pod["containers"][0].pop("imagePullPolicy") == "IfNotPresent"
assert pod == manifest["spec"]["template"]["spec"], (pod, manifest)

daemon_set = named(everything, "DaemonSet")["spec"]
pod, container = daemon_set["template"]["spec"], daemon_set["template"]["spec"]["containers"][0]
assert container["args"] == ["serve", "--listen", "0.0.0.0:9999", "--by", "comm,state", "--filter", "rport 5432"]
assert container["ports"][0]["containerPort"] == container["ports"][0]["hostPort"] == 9999
for field in ["tolerations", "nodeSelector", "affinity", "priorityClassName", "imagePullSecrets"]:
    assert pod[field] == EVERYTHING[field], field
assert container["resources"]["limits"] == {"memory": "256Mi"}
selector = daemon_set["selector"]["matchLabels"].items()
assert selector <= daemon_set["template"]["metadata"]["labels"].items()
for kind in ["PodMonitor", "ServiceMonitor"]:
    assert named(everything, kind)["spec"]["selector"]["matchLabels"].items() == selector
service = named(everything, "Service")
assert service["spec"]["selector"].items() == selector and selector <= service["metadata"]["labels"].items()
print(f"chart: linted by Helm {helm.helm_sdk_version()}, valid on Kubernetes {' and '.join(VERSIONS)}")
