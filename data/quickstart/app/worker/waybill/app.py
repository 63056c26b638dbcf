"""The depot's web service."""
from flask import Flask, render_template_string, request

from waybill import store

app = Flask(__name__)


@app.get("/hello")
def hello():
    return render_template_string("<h1>Depot " + request.args["depot"] + "</h1>")


@app.get("/parcels")
def parcels():
    page = "<ul>" + "".join(str(row) for row in store.by_state(request.args["state"])) + "</ul>"
    return render_template_string(page)


if __name__ == "__main__":
    app.run(host="0.0.0.0", debug=True)
