#!/usr/bin/env python3
"""Asks a new version whether it can read everything that was ever recorded where it is to run, before its services come:
`waybill verify --schema` of the new image, as a job beside that of `provision.py`.

    deploy/ci/schema_gate.py ghcr.io/waybill/waybill:4f1c2d --namespace waybill --overlay deploy/kubernetes/overlays/tls

It is the job `provision` of the overlay with another command, and with the key of the operator, who may read every stream and
change none: the secrets operator-nats-secret and, with TLS, operator-tls.

Exit codes: 0 everything can be read, 1 it cannot, or it cannot be told: nothing is to be deployed.
"""

import re
import sys
import time

from provision import begin, job_of, run
from rollout import Trouble

NAME = "schema-gate"
# What is different from the job that makes the streams: what, in which place, and how often it may be there.
CHANGES = (
    (r"^  name: provision$", f"  name: {NAME}", (1,)),
    (r"^(\s+)app: provision$", rf"\1app: {NAME}", (2,)),
    (r"^(\s+)- provision$", r"\1- verify\n\1- --schema", (1,)),
    (r"^(\s+secretName:) provisioning-nats-secret$", r"\1 operator-nats-secret", (1,)),
    (r"^(\s+secretName:) provisioning-tls$", r"\1 operator-tls", (0, 1)),
    # One answer is enough: what cannot be read now cannot be read when it is tried again.
    (r"^(\s+restartPolicy:) OnFailure$", r"\1 Never", (1,)),
    (r"^  backoffLimit: \d+$", "  backoffLimit: 0", (1,)),
)


def gate_of(provision):
    """The job that reads the log, out of the one that makes the streams."""
    for what, instead, times in CHANGES:
        provision, found = re.subn(what, instead, provision, flags=re.MULTILINE)
        if found not in times:
            raise Trouble(f"the job provision has {found} times what this script changes: {what}")
    return provision


def ended(job):
    """How a job has ended, if it has."""
    held = {one["type"] for one in job["status"].get("conditions", []) if one["status"] == "True"}
    return "Complete" if "Complete" in held else "Failed" if "Failed" in held else None


def ask(cluster, image, options, sleep=time.sleep):
    """Runs the job to its end; trouble where the answer is no."""
    begin(cluster, NAME, gate_of(job_of(cluster.run("kustomize", options.overlay), image)))
    until = time.monotonic() + options.timeout
    while not (end := ended(cluster.get("job", NAME))):
        if time.monotonic() >= until:
            break
        sleep(2)
    if end != "Complete":
        log = cluster.run("logs", f"job/{NAME}", "--tail=50")
        raise Trouble(f"{'not everything can be read' if end else f'no answer in {options.timeout} s'}\n{log}")


if __name__ == "__main__":
    sys.exit(run(ask, __doc__, "schema gate", 1800, "can read everything that is recorded"))
