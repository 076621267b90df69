"""Signatures that the `model_signing` tool and `membrane` make of the same component, each checked by the other.

    python -m venv target/peer/signing && target/peer/signing/bin/pip install model-signing==1.1.1 pyopenssl
    target/peer/signing/bin/python tests/peer/signatures.py target/release/membrane PLUGIN.wasm [VECTORS]

VECTORS is a checkout's `scripts/tests` of github.com/sigstore/model-transparency: its published signatures of plain keys
are checked too. The status is 1 if a check fails.
"""

import pathlib
import shutil
import subprocess
import sys
import tempfile


def runs(*command):
    return subprocess.run([str(part) for part in command], capture_output=True).returncode == 0


def both_ways(membrane, plugin, folder, kind):
    tool = [sys.executable, "-m", "model_signing"]
    key, public, ours, theirs = (folder / f"{kind}.{end}" for end in ("key", "pub", "ours", "theirs"))
    made = runs(membrane, "plugin", "keygen", folder / kind, "--type", kind)
    made = made and runs(membrane, "plugin", "sign", plugin, "--key", key, "--out", ours)
    made = made and runs(*tool, "sign", "key", plugin, "--private_key", key, "--signature", theirs)
    by_tool = [*tool, "verify", "key", "--public_key", public, "--signature"]
    by_us = [membrane, "plugin", "verify", "--key", public, "--signature"]
    changed = folder / "changed.wasm"
    changed.write_bytes(plugin.read_bytes() + b"\0")
    yield f"{kind}: keys and signatures are made", made
    for signature in (ours, theirs):
        yield f"{kind}: the tool takes {signature.suffix}", runs(*by_tool, signature, plugin)
        yield f"{kind}: membrane takes {signature.suffix}", runs(*by_us, signature, plugin)
        yield f"{kind}: the tool refuses a changed file", not runs(*by_tool, signature, changed)
        yield f"{kind}: membrane refuses a changed file", not runs(*by_us, signature, changed)


def published(membrane, vectors, folder):
    public = vectors / "keys/certificate/signing-key-pub.pem"
    for vector in sorted(vectors.glob("v*-elliptic-key")):
        signature = vector / "model.sig"
        # The older ones are of a file, the newer ones of the folder that it is in.
        target = vector if (vector / "signme-2").exists() else vector / "signme-1"
        copy = folder / vector.name
        shutil.copytree(vector, copy)
        with open(copy / "signme-1", "ab") as file:
            file.write(b"x")
        changed = copy if target == vector else copy / "signme-1"
        # That of version 1.0.1 is checked with `--ignore-paths` there.
        verify = [membrane, "plugin", "verify", "--key", public, "--ignore", "ignore-me", "--signature"]
        yield f"{vector.name}: membrane takes it", runs(*verify, signature, target)
        yield f"{vector.name}: membrane refuses a changed file", not runs(*verify, copy / "model.sig", changed)


def main(membrane, plugin, vectors=None):
    plugin = pathlib.Path(plugin)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        checks = [check for kind in ("p256", "p384") for check in both_ways(membrane, plugin, folder, kind)]
        if vectors is not None:
            checks += published(membrane, pathlib.Path(vectors), folder)
    for what, good in checks:
        print("good" if good else "BAD ", what)
    sys.exit(0 if all(good for _, good in checks) else 1)


main(*sys.argv[1:])
