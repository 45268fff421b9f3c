#!/usr/bin/env python3
"""Applies the manifests of an overlay to what runs, with the images that run: what a change of deploy/kubernetes/ needs.

    deploy/ci/apply.py --namespace waybill --overlay deploy/kubernetes/overlays/tls
    deploy/ci/apply.py --image ghcr.io/waybill/waybill:4f1c2d      # of what does not run yet

Images are the business of `rollout.py`, jobs that of `provision.py`, and how many instances there are that of the autoscaler: each stays
as it is. Everything that has no instances is applied first, then one deployment after the other, each when the one before it is
ready; a deployment that does not get there is taken back, and the rest is not begun. What is gone from the overlay stays in the
cluster: delete it by hand. Who already runs reads a changed ConfigMap when he is started again.

Exit codes: 0 all is as the overlay says, 1 something was taken back, or refused.
"""

import argparse
import re
import sys

from changed_services import GATEWAY, ORDER
from provision import OVERLAYS
from rollout import Cluster, Trouble

# Deployments, in the order in which they get a new version.
DEPLOYMENTS = [name if name == GATEWAY else f"{name}-service" for name in ORDER]


def parts(manifests):
    """Kind, name and text of each object that kustomize prints."""
    for text in re.split(r"^---$", manifests, flags=re.MULTILINE):
        kind = re.search(r"^kind: (\S+)$", text, re.MULTILINE)
        name = re.search(r"^metadata:\n(?: .*\n)*?  name: (\S+)$", text, re.MULTILINE)
        if not kind or not name:
            raise Trouble(f"the overlay has an object without a kind or a name: {text.strip()[:80]}")
        yield kind[1], name[1], text.strip() + "\n"


def kept(text, running, image):
    """A deployment with the image and the number of instances that run; where none does, with this image."""
    if running:
        image = running["spec"]["template"]["spec"]["containers"][0]["image"]
        text = re.sub(r"^  replicas: \d+$", f"  replicas: {running['spec']['replicas']}", text, flags=re.MULTILINE)
    return re.sub(r"^(\s+(?:- )?image:) .*$", rf"\1 {image}", text, flags=re.MULTILINE) if image else text


def apply(cluster, options):
    """Everything of the overlay; trouble where a deployment was taken back."""
    objects = list(parts(cluster.run("kustomize", options.overlay)))
    others = [text for kind, _, text in objects if kind not in ("Deployment", "Job")]
    deployments = {name: text for kind, name, text in objects if kind == "Deployment"}
    if sorted(deployments) != sorted(DEPLOYMENTS):
        raise Trouble(f"the overlay deploys {sorted(deployments)}, expected {sorted(DEPLOYMENTS)}")
    running = {one["metadata"]["name"]: one for one in cluster.get("deployments")["items"]}
    cluster.run("apply", "--filename", "-", given="---\n".join(others))
    for name in DEPLOYMENTS:
        before = running.get(name)
        cluster.run("apply", "--filename", "-", given=kept(deployments[name], before, options.image))
        after = cluster.get("deployment", name)
        if before and before["metadata"]["generation"] == after["metadata"]["generation"]:
            continue
        print(f"{name}: changed, waiting until it is ready", flush=True)
        try:
            cluster.run("rollout", "status", f"deployment/{name}", f"--timeout={options.timeout}s")
        except Trouble as trouble:
            if before:
                cluster.run("rollout", "undo", f"deployment/{name}")
            raise Trouble(f"{name}: {trouble}; it is taken back, and what comes after it is not begun") from trouble


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--namespace", default="waybill")
    parser.add_argument("--overlay", default=str(OVERLAYS / "production"), help="the folder that is deployed [default: production]")
    parser.add_argument("--image", help="the image of deployments that are new [default: that of the overlay]")
    parser.add_argument("--timeout", type=int, default=600, help="seconds until a deployment is ready [default: 600]")
    options = parser.parse_args()
    try:
        apply(Cluster(options.namespace), options)
    except Trouble as trouble:
        print(f"apply: {trouble}", file=sys.stderr)
        return 1
    print("apply: the cluster is as the overlay says")
    return 0


if __name__ == "__main__":
    sys.exit(main())
