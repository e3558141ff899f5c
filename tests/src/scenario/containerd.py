"""A pod through the container runtime interface (CRI) of containerd, as a kubelet makes it.

image ARCHIVE BUSYBOX: an image with one program. run SOCKET CONFIG: a pod sandbox on the host's network, and a container in it;
prints both ids. remove SOCKET SANDBOX: stops and removes the pod. The messages are those of cri-api v1, written by hand.
"""

import hashlib
import io
import json
import sys
import tarfile

SERVICE = "/runtime.v1.RuntimeService/"


def varint(number):
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def message(fields):
    """Protobuf: pairs of a field's number and its value; a dict is a message, a list several values."""
    out = b""
    for number, value in fields:
        if isinstance(value, list):
            out += message([(number, one) for one in value])
        elif isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            data = value if isinstance(value, bytes) else value.encode()
            out += varint(number << 3 | 2) + varint(len(data)) + data
    return out


def first_string(data):
    """The first field of an answer, a string."""
    length, at, shift = 0, 1, 0
    while True:
        byte = data[at]
        length |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return data[at : at + length].decode()


def image(archive, busybox):
    def packed(files):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            for name, content, mode in files:
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = len(content or b""), mode
                if content is None:
                    entry.type = tarfile.DIRTYPE
                tar.addfile(entry, io.BytesIO(content or b""))
        return out.getvalue()

    with open(busybox, "rb") as program:
        places = [(place, None, 0o755) for place in ("proc", "sys", "dev", "etc", "tmp", "usr", "out")]
        layer = packed(places + [("busybox", program.read(), 0o755)])
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": ["/busybox", "sleep", "100000"]},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]},
    }
    manifest = [{"Config": "config.json", "RepoTags": ["localhost/shop:1"], "Layers": ["layer.tar"]}]
    with open(archive, "wb") as out:
        out.write(
            packed(
                [
                    ("config.json", json.dumps(config).encode(), 0o644),
                    ("layer.tar", layer, 0o644),
                    ("manifest.json", json.dumps(manifest).encode(), 0o644),
                ]
            )
        )


def connect(socket):
    import grpc

    channel = grpc.insecure_channel("unix://" + socket)

    def call(method, fields):
        send = channel.unary_unary(SERVICE + method, bytes, bytes)
        return send(message(fields), timeout=60, wait_for_ready=True)

    return call


HOST_NETWORK = message([(1, 2)])  # NamespaceOption.network = NODE


def run(socket, path):
    with open(path) as file:
        pod = json.load(file)
    call = connect(socket)
    sandbox = message(
        [
            (1, message([(1, pod["name"]), (2, pod["uid"]), (3, pod["namespace"])])),
            (3, pod["logs"]),
            (8, message([(1, pod["cgroup"]), (2, message([(1, HOST_NETWORK)]))])),
        ]
    )
    sandbox_id = first_string(call("RunPodSandbox", [(1, sandbox)]))
    mount = lambda to, source, readonly: message([(1, to), (2, source), (3, int(readonly))])
    container = message(
        [
            (1, message([(1, pod["container"])])),
            (2, message([(1, "localhost/shop:1")])),
            (3, pod["command"]),
            (6, [message([(1, name), (2, value)]) for name, value in pod["env"].items()]),
            (7, [mount(*one) for one in pod["mounts"]]),
            (11, pod["log"]),
            (15, message([(2, message([(3, HOST_NETWORK)]))])),
        ]
    )
    created = call("CreateContainer", [(1, sandbox_id), (2, container), (3, sandbox)])
    call("StartContainer", [(1, first_string(created))])
    print(sandbox_id, first_string(created))


def remove(socket, sandbox_id):
    call = connect(socket)
    call("StopPodSandbox", [(1, sandbox_id)])
    call("RemovePodSandbox", [(1, sandbox_id)])


{"image": image, "run": run, "remove": remove}[sys.argv[1]](*sys.argv[2:])
