"""What Schemathesis must know of Waybill, for tests/stories/schemathesis.rs."""

import re

import schemathesis

POSITION = re.compile(r"^([A-Z]+):[1-9][0-9]*$")


@schemathesis.hook
def before_call(context, case, kwargs):
    """A position that the log does not have yet is answered with 503 after a wait, as it should be: that is tested
    elsewhere. Here every position is one that has been reached."""
    if case.path.endswith("/stream"):
        # An answer without an end would be waited for.
        case.query = {**(case.query or {}), "until": "live"}
    for values in (case.query, case.headers):
        for name in list(values or {}):
            if name.lower() in ("after", "waybill-position") and isinstance(values[name], str):
                values[name] = POSITION.sub(r"\1:0", values[name])
