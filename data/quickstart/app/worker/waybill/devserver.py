"""Serves the depot pages for trying things out."""
from flask import Flask, request
import jwt
import requests

app = Flask("dev")
API_TOKEN = "example-dev-token"


@app.get("/proxy")
def proxy():
    return requests.get(request.args["to"], verify=False).text


@app.get("/me")
def me():
    return jwt.decode(request.headers["token"], "", options={"verify_signature": False})


app.run("0.0.0.0", 8080, debug=True)
