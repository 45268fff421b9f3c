#!/usr/bin/env python3
"""Brings a new image of one service into a cluster: a canary first, then all of it; back again where it does badly.

    deploy/ci/rollout.py orders ghcr.io/waybill/waybill:4f1c2d --namespace waybill

1. canary   one instance of the new image beside the old ones. It registers like every other, so it gets its share.
2. watch    for --watch seconds: it must stay ready, must not restart, and of what it is asked and does at most --failures may fail:
            commands, requests (of a service its queries too), reactions and the commits of its read model.
3. promote  the deployment takes the image, a few instances at a time; the canary goes.
4. back     whatever goes wrong before: the canary goes, and a deployment that had taken the image takes its old one again.

The image may be an older one, to go back to. Where it does not know `waybill health --metrics`, it is asked whether it is ready
instead, and it is said that failures are not counted.

What instances count is asked of them with `kubectl exec` and, at the gateway, through the proxy of the API server: whoever runs
this needs the rights to `pods/exec` and `pods/proxy`.

Exit codes: 0 the image serves, 1 it was taken back, 2 the cluster did not do as it was asked: look at it.
"""

import argparse
import copy
import json
import re
import subprocess
import sys
import time

# What instances count of what they do: the whole, and what of it failed. Each is judged by itself, so that many commands do not
# cover up a few queries. Where the failures are a counter of their own, they are not in the other one. What the world is to blame
# for, and a race that another projector won, is no fault of the image.
JUDGED = {
    "commands": ("waybill_commands_total", "waybill_commands_total", r'outcome="(failed|unknown)"'),
    "requests": ("waybill_http_requests_total", "waybill_http_requests_total", r'status="5\d\d"'),
    "requests of clients": ("waybill_gateway_requests_total", "waybill_gateway_requests_total", r'status="5\d\d"'),
    "reactions": ("waybill_reaction_seconds_count", "waybill_reaction_failures_total", r'cause="message"'),
    "commits": ("waybill_projection_commit_seconds_count", "waybill_projection_failures_total", r'kind="(commit|decode|read)"'),
}
# Fewer say nothing.
ENOUGH = 20


class Trouble(Exception):
    """Why the image is not to serve."""


class Cluster:
    """One namespace, by way of kubectl."""

    def __init__(self, namespace):
        self.base = ["kubectl", "--namespace", namespace]
        self.namespace = namespace
        self.older = False

    def run(self, *words, given=None):
        done = subprocess.run([*self.base, *words], input=given, text=True, capture_output=True)
        if done.returncode:
            raise Trouble(f"kubectl {' '.join(words[:3])}: {done.stderr.strip()}")
        return done.stdout

    def get(self, kind, *words):
        return json.loads(self.run("get", kind, *words, "--output", "json"))

    def metrics(self, pod):
        """What an instance counts, as text. A service is asked from inside its own container, which has the certificate that
        it wants to see, and to which no network policy says anything. The gateway shows its clients a certificate of
        another authority, and answers everybody: it is asked through the API server, which does not look whose it is."""
        spec = pod["spec"]["containers"][0]
        name = pod["metadata"]["name"]
        if pod["metadata"]["labels"]["app"] != "gateway":
            return self.counted(["exec", name, "--container", spec["name"], "--", "waybill", "health"])
        place = f"{'https:' if 'WAYBILL_GATEWAY_CERT' in variables(pod['spec']) else ''}{name}:3000"
        return self.run("get", "--raw", f"/api/v1/namespaces/{self.namespace}/pods/{place}/proxy/metrics")

    def counted(self, health):
        """What a service counts, as it says from inside; nothing where its image is older than the question: then it has to say
        that it is ready."""
        if not self.older:
            try:
                return self.run(*health, "--metrics")
            except Trouble as trouble:
                if "'--metrics'" not in str(trouble):
                    raise
                self.older = True
                print("the image is too old to say what it counts: only whether it is ready is watched", flush=True)
        self.run(*health, "--ready")
        return ""


def variables(pod):
    """Names of the variables that the container of a pod is given one by one."""
    return {one["name"] for one in pod["containers"][0].get("env", [])}


def canary_of(deployment, image):
    """A deployment of one instance with the new image, beside the one that serves."""
    name = deployment["metadata"]["name"]
    canary = copy.deepcopy({key: deployment[key] for key in ("apiVersion", "kind", "spec")})
    spec = canary["spec"]
    labels = dict(spec["template"]["metadata"]["labels"], track="canary")
    canary["metadata"] = {"name": f"{name}-canary", "labels": labels}
    spec["replicas"] = 1
    spec["selector"] = {"matchLabels": {"app": labels["app"], "track": "canary"}}
    spec["template"]["metadata"]["labels"] = labels
    for container in spec["template"]["spec"]["containers"]:
        container["image"] = image
    return canary


def counted(metrics, name, labels=""):
    """The sum of a counter, of those of its lines whose labels fit."""
    lines = re.findall(rf"^{name}\{{([^}}]*)\}} (\d+)", metrics, re.MULTILINE)
    return sum(int(count) for of, count in lines if re.search(labels, of))


def failures(metrics):
    """Of each thing that an instance does how much it did, and how much of it failed."""
    for what, (whole, bad, labels) in JUDGED.items():
        failed = counted(metrics, bad, labels)
        yield what, counted(metrics, whole) + (failed if bad != whole else 0), failed


def watch(cluster, name, seconds, share, sleep=time.sleep):
    """Looks at the canary until the time is over, and says of what it has done how much; trouble where it does badly."""
    end = time.monotonic() + seconds
    done = {}
    while True:
        pods = cluster.get("pods", "--selector", f"app={name},track=canary")["items"]
        for pod in pods:
            states = pod["status"].get("containerStatuses", [])
            if any(state["restartCount"] for state in states):
                raise Trouble("the canary was started again")
            if not states or not all(state["ready"] for state in states):
                raise Trouble("the canary is no longer ready")
            for what, whole, failed in failures(cluster.metrics(pod)):
                done[what] = whole
                if whole >= ENOUGH and failed > whole * share:
                    raise Trouble(f"{failed} of {whole} {what} failed")
        if not pods:
            raise Trouble("the canary is gone")
        if time.monotonic() >= end:
            told = [f"{whole} {what}" + ("" if whole >= ENOUGH else ": too few, not judged") for what, whole in done.items() if whole]
            print(f"{name}: {'; '.join(told) or 'it was asked nothing, so it is not judged by what failed'}", flush=True)
            return
        sleep(min(5, max(0.01, end - time.monotonic())))


def roll_out(cluster, name, image, options):
    """The four steps; whether the image serves."""
    deployment = cluster.get("deployment", name)
    if "WAYBILL_GATEWAY_CLIENT_CA" in variables(deployment["spec"]["template"]["spec"]):
        raise Trouble("its clients have to show a certificate, which the API server has not: a canary could not be watched")
    taken = False
    patience = f"--timeout={options.timeout}s"
    try:
        print(f"{name}: canary of {image}", flush=True)
        cluster.run("apply", "--filename", "-", given=json.dumps(canary_of(deployment, image)))
        cluster.run("rollout", "status", f"deployment/{name}-canary", patience)
        print(f"{name}: watching it for {options.watch} s", flush=True)
        watch(cluster, name, options.watch, options.failures)
        print(f"{name}: promoting", flush=True)
        taken = True
        cluster.run("set", "image", f"deployment/{name}", f"*={image}")
        cluster.run("rollout", "status", f"deployment/{name}", patience)
    except Trouble as trouble:
        print(f"{name}: {trouble}; taking it back", file=sys.stderr, flush=True)
        if taken:
            cluster.run("rollout", "undo", f"deployment/{name}")
        return False
    finally:
        cluster.run("delete", "deployment", f"{name}-canary", "--ignore-not-found", "--wait=false")
    print(f"{name}: {image} serves", flush=True)
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("service", help="such as orders, or gateway")
    parser.add_argument("image", help="the new image, with its tag or digest")
    parser.add_argument("--namespace", default="waybill")
    parser.add_argument("--watch", type=float, default=120, help="seconds that the canary is watched [default: 120]")
    parser.add_argument("--failures", type=float, default=0.01, help="share that may fail [default: 0.01]")
    parser.add_argument("--timeout", type=int, default=300, help="seconds until all are ready [default: 300]")
    options = parser.parse_args()
    name = options.service if options.service == "gateway" else f"{options.service}-service"
    try:
        serves = roll_out(Cluster(options.namespace), name, options.image, options)
    except Trouble as trouble:
        print(f"{name}: {trouble}", file=sys.stderr)
        return 2
    return 0 if serves else 1


if __name__ == "__main__":
    sys.exit(main())
