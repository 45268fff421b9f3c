#!/usr/bin/env python3
"""Makes what a new version needs in NATS before its services come: the job `provision`, run with the new image.

    deploy/ci/provision.py ghcr.io/waybill/waybill:4f1c2d --namespace waybill --overlay deploy/kubernetes/overlays/tls

A job cannot be changed, and is gone by itself after a day: the old one is deleted, and that of the overlay applied. What is
there already is checked and left, so it does no harm to run it twice. A stream that is new needs rights that are new too:
`waybill nats-config` has run before, docs/operations.md says how.

Exit codes: 0 the job is done, 1 it is not: nothing is to be deployed.
"""

import argparse
import pathlib
import re
import sys

from rollout import Cluster, Trouble

OVERLAYS = pathlib.Path(__file__).resolve().parents[1] / "kubernetes/overlays"


def job_of(manifests, image):
    """The job among the manifests that kustomize prints, with another image."""
    jobs = [one for one in re.split(r"^---$", manifests, flags=re.MULTILINE) if re.search(r"^kind: Job$", one, re.MULTILINE)]
    if len(jobs) != 1:
        raise Trouble(f"the overlay has {len(jobs)} jobs, expected one")
    job, images = re.subn(r"^(\s+image:) .*$", rf"\1 {image}", jobs[0], flags=re.MULTILINE)
    if images != 1:
        raise Trouble(f"the job has {images} images, expected one")
    return job.strip() + "\n"


def begin(cluster, name, job):
    """Runs a job anew: one that is there cannot be changed."""
    cluster.run("delete", "job", name, "--ignore-not-found", "--wait=true")
    cluster.run("apply", "--filename", "-", given=job)


def provision(cluster, image, options):
    """Runs the job until it is done; trouble where it does not get there."""
    begin(cluster, "provision", job_of(cluster.run("kustomize", options.overlay), image))
    try:
        cluster.run("wait", "--for=condition=complete", "job/provision", f"--timeout={options.timeout}s")
    except Trouble as trouble:
        # Why it is not done stands in its log, if it has come to have one.
        log = cluster.run("logs", "job/provision", "--tail=50")
        raise Trouble(f"{trouble}\n{log}") from trouble


def run(does, doc, name, timeout, done):
    """What a script does that runs a job of the overlay with a new image. Its exit code."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", help="the new image, with its tag or digest")
    parser.add_argument("--namespace", default="waybill")
    parser.add_argument("--overlay", default=str(OVERLAYS / "production"), help="the folder that is deployed [default: production]")
    parser.add_argument("--timeout", type=int, default=timeout, help=f"seconds until it is done [default: {timeout}]")
    options = parser.parse_args()
    try:
        does(Cluster(options.namespace), options.image, options)
    except Trouble as trouble:
        print(f"{name}: {trouble}", file=sys.stderr)
        return 1
    print(f"{name}: {options.image} {done}")
    return 0


if __name__ == "__main__":
    sys.exit(run(provision, __doc__, "provision", 600, "has what it needs"))
