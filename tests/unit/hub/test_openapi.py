"""The document names every route of the application, and no other."""

import msgspec
from starlette.routing import Route

from wardround.hub import openapi
from wardround.hub.app import create_app
from wardround.hub.attestation_routes import ADDRESSES


def _unmade(_loop: object) -> object:
    raise AssertionError("no state is needed to list routes")


def routes() -> set[tuple[str, str]]:
    found = set()
    for route in create_app(_unmade, ADDRESSES).routes:
        assert isinstance(route, Route)
        # OpenAPI has no word for a parameter that may hold slashes.
        path = route.path.replace(":path}", "}")
        found |= {(method.lower(), path) for method in (route.methods or ()) if method != "HEAD"}
    return found


def test_every_route_is_in_the_document() -> None:
    written = {(method, path) for path, methods in openapi.document()["paths"].items() for method in methods}
    assert routes() - written <= {("get", "/openapi.json")}
    assert written <= routes()


def test_every_operation_says_what_it_does_and_how_it_refuses() -> None:
    for path, methods in openapi.document()["paths"].items():
        for method, operation in methods.items():
            assert operation["summary"].endswith("."), (method, path)
            assert "application/problem+json" in operation["responses"]["default"]["content"]


def test_every_reference_leads_to_a_schema() -> None:
    document = openapi.document()
    text = msgspec.json.encode(document).decode()
    schemas = document["components"]["schemas"]
    named = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert named <= set(schemas)
    assert {"Contribution", "Receipt", "Task", "Problem", "StudyStatus"} <= set(schemas)
