"""Checks `retune schema` with a validator that is not ours.

    retune schema > schema.json
    python tests/interop/schema.py schema.json pipelines/*.toml

Every pipeline must be valid, and none may be once it is broken in one of the
ways below. Needs the package `jsonschema`.
"""

import copy
import json
import sys
import tomllib

import jsonschema


def breakages(pipeline):
    """Pairs of a description and a copy of the pipeline with one fault."""

    def broken(what, edit):
        bad = copy.deepcopy(pipeline)
        edit(bad)
        return what, bad

    yield broken("unknown table", lambda p: p.update(step={}))
    yield broken("bad seed", lambda p: p.setdefault("pipeline", {}).update(seed=-1))
    yield broken("unknown key", lambda p: p.setdefault("pipeline", {}).update(sed=1))
    for name in pipeline.get("steps", {}):
        def step(p, name=name):
            return p["steps"][name]
        yield broken(f"{name}: unknown field", lambda p: step(p).update(unknown_=1))
        yield broken(f"{name}: unknown kind", lambda p: step(p).update(uses="no.kind"))
        yield broken(f"{name}: no kind", lambda p: step(p).pop("uses"))
        yield broken(f"{name}: out is a number", lambda p: step(p).update(out=3))


def main(schema_path, *pipeline_paths):
    with open(schema_path, encoding="utf-8") as file:
        schema = json.load(file)
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    faults = 0
    for path in pipeline_paths:
        with open(path, "rb") as file:
            pipeline = tomllib.load(file)
        for error in validator.iter_errors(pipeline):
            faults += 1
            print(f"{path}: should be valid: {error.json_path}: {error.message[:200]}")
        for what, bad in breakages(pipeline):
            if validator.is_valid(bad):
                faults += 1
                print(f"{path}: should not be valid: {what}")
    print(f"{len(pipeline_paths)} pipelines, {faults} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
