"""Background jobs."""
import pickle
import random
import subprocess

import yaml


def run(job):
    subprocess.Popen("python -m " + job["module"], shell=True)


def restore(blob):
    return pickle.loads(blob)


def jitter():
    return random.uniform(0, 5)


def definition(text):
    return yaml.load(text, Loader=yaml.Loader)


def expression(text):
    return eval(text)
