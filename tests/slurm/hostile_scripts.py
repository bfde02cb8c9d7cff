"""Submit scripts that hold generated, hostile values to a real Slurm and see what arrives.

    python hostile_scripts.py FOLDER NUM_EXAMPLES        on the login node of the test cluster

Hypothesis makes the values; each example is one real job whose "Python" is a recorder. Prints one JSON line a job that
was accepted, and one for each that was refused, with the reason.
"""

import contextlib
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from hpcpar.control import submit
from hpcpar.decode import decode
from hpcpar.errors import InputError
from hpcpar.profile import ClusterProfile
from hpcpar.runs import BatchFolder
from hpcpar.spec import Study

FOLDER, NUM_EXAMPLES = Path(sys.argv[1]), int(sys.argv[2])
CANARY = FOLDER / "canary"
_made = []

_payload = st.sampled_from(
    [
        f"$(touch {CANARY})",
        f"`touch {CANARY}`",
        f"'; touch {CANARY}; '",
        f'"; touch {CANARY}; "',
        f"x\ntouch {CANARY}\n",
        "#SBATCH --time=99:00:00",
        "\n#SBATCH --partition=nosuch\n",
        "%j %A %% %n",
        "-rf --help",
        "a b  c",
        "*?[a-z]{1,2}~",
        "$HOME ${PATH} !! \\",
        "é 漢字 \u202e",
        "\0",
        "\udcff",
        "\x1b[31m",
    ]
)
_printable = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), max_size=30)
_text = st.one_of(
    _payload, _printable, _printable, st.text(max_size=30), st.builds("{}{}".format, _printable, _payload)
)
_name = _text.map(lambda text: text.replace("/", "_")[:60]).filter(lambda text: text.strip(".") != "")


def _recorder(folder):
    """A stand-in for the nodes' Python that writes down what it was given."""
    path = folder / "python"
    path.write_text(
        "#!/bin/sh\n"
        'case "$1" in -P) exit 0;; esac\n'
        'for one in "$@" "HOSTILE=$HOSTILE"; do printf "%s\\0" "$one"; done >"$RECORD"\n'
    )
    path.chmod(0o755)
    return path


@settings(
    max_examples=NUM_EXAMPLES,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(root_name=_name, python_name=_name, value=_text, module=_text)
@example(root_name="plain", python_name="plain", value="plain", module="")
@example(root_name="sp ace 'q' \"d\" $(id) %j #", python_name="it's $HOME", value=f"$(touch {CANARY})", module="")
def _submit(root_name, python_name, value, module):
    place = FOLDER / str(len(_made))
    place.mkdir()
    given = {"root_name": root_name, "python_name": python_name, "value": value, "module": module}
    one = {"given": {key: ascii(text) for key, text in given.items()}}
    _made.append(one)
    record = place / "record"
    try:
        folder = place / python_name
        with contextlib.suppress(OSError, ValueError):
            folder.mkdir()
        python = _recorder(folder) if folder.is_dir() else folder / "python"
        profile = _profile({"HOSTILE": value, "RECORD": str(record)}, [module] if module else [])
        study = decode(Study, {**_STUDY, "python": str(python)}, "test")
        prepared = submit.prepare(submit.Request(study, profile, "test", place / root_name, "0"))
        job = submit.submit(prepared)[0]
    except InputError as error:
        one["refused"] = str(error)
        one["written"] = sorted(str(path) for path in place.rglob("spec.json"))
        return
    batch = prepared.batches[0]
    one.update(
        job=job,
        record=str(record),
        expected=[
            "-m",
            "hpcpar.worker",
            str(batch.folder.payload_path),
            str(prepared.study.path / batch.runs[0].spec.run_name),
            f"HOSTILE={value}",
        ],
        log=str(BatchFolder(batch.folder.path).logs / f"{job}.log"),
        script=shlex.quote(str(batch.folder.script_path)),
    )


_STUDY = {"workload": "mlp", "strategies": ["single"], "nodes": [1], "steps": 1, "name": "hostile"}


def _profile(variables, modules):
    data = {
        "schema": 1,
        "name": "hostile",
        "description": "d",
        "scheduler": "slurm",
        "default_time": "1m",
        "default_node_type": "cpu",
        "node_types": {"cpu": {}},
        "environment": {"set": variables, "modules": modules},
    }
    return decode(ClusterProfile, data, "test")


def _finish():
    end = time.monotonic() + 180
    while time.monotonic() < end:
        listing = subprocess.run(["squeue", "-h", f"--user={os.getuid()}"], capture_output=True, text=True, check=True)
        if not listing.stdout.strip():
            break
        time.sleep(0.3)
    for one in _made:
        if "job" in one:
            path = Path(one["record"])
            one["arrived"] = (
                [part.decode("utf-8", "surrogateescape") for part in path.read_bytes().split(b"\0")[:-1]]
                if path.exists()
                else None
            )
            one["log_exists"] = Path(one["log"]).exists()
            shown = subprocess.run(["scontrol", "show", "job", one["job"]], capture_output=True, text=True, check=True)
            one["shown"] = shown.stdout
        print(json.dumps(one))
    print(json.dumps({"canary": CANARY.exists()}))


_submit()
_finish()
