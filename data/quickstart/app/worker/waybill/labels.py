"""Prints labels."""
import os
import subprocess

from flask import request, send_file

LABELS = "/srv/labels"


def label():
    path = os.path.join(LABELS, request.args["name"])
    return send_file(path)


def upload():
    target = os.path.join(LABELS, request.files["label"].filename)
    request.files["label"].save(target)
    return {"stored": target}


def print_label(printer, path):
    subprocess.call("lp -d " + printer + " " + path, shell=True)
