"""What schemathesis cannot know of the contract by itself. Nothing here turns a check off."""

import json
import os

import schemathesis
from schemathesis.core.parameters import ParameterLocation


@schemathesis.hook
def before_load_schema(context, raw_schema):
    """The contract is that of a node with keys. One without listens on the loopback alone and asks nobody for a key."""
    if os.environ["CONTRACT_KEYS"] == "none":
        for calls in raw_schema["paths"].values():
            for call in calls.values():
                call["security"] = []


@schemathesis.serializer("application/x-ndjson")
def write_lines(ctx, value):
    """The contract's schema is that of one line, so a body has one; lines beside each other are the fuzz target batch's."""
    return json.dumps(value).encode()


@schemathesis.deserializer("application/x-ndjson")
def read_lines(ctx, response):
    (line,) = response.content.splitlines()
    return json.loads(line)


def headers(case):
    return {name.lower() for name in case.headers or {}}


def query(case):
    return set(case.query or {})


def fields(case):
    return set(case.body) if isinstance(case.body, dict) else set()


SETTINGS = {"hold_seconds", "hold_seconds_max", "opens_at", "closes_at"}

# Why a request that fits the contract's schemas may be refused all the same: what a schema cannot say, because it depends on what the node
# holds, or on two values at once. Beside each code: by which calls, and what must be in the request for it.
REASONS = {
    # A cursor is opaque and good for the list that it came from alone; if-match has the grammar of RFC 9110.
    "invalid_request": lambda name, case: (name == "changeStock" and "if-match" in headers(case))
    or (name in ("listStocks", "listReservations") and "cursor" in query(case))
    or (name == "readEvents" and ("after" in query(case) or "last-event-id" in headers(case))),
    "cursor_expired": lambda name, case: name == "readEvents" and "after" in query(case),
    # The stock's tag is another.
    "precondition_failed": lambda name, case: name == "changeStock" and "if-match" in headers(case),
    "idempotency_key_reused": lambda name, case: "idempotency-key" in headers(case),
    # More than remain of the reservation.
    "invalid_quantity": lambda name, case: name in ("confirmReservation", "releaseReservation", "returnReservation")
    and "quantity" in fields(case),
    # A hold over the stock's maximum, a window that ends before it begins, a moment before 1970, more units than a stock may have, a
    # reason of more bytes than characters.
    "out_of_range": lambda name, case: (name in ("openStock", "changeStock") and SETTINGS & fields(case))
    or (name in ("reserve", "extendReservation") and "hold_seconds" in fields(case))
    or name == "adjustStock",
}


@schemathesis.check
def refused_for_what_no_schema_says(ctx, response, case):
    """Narrows what schemathesis.toml lets positive_data_acceptance pass: the reason must be one of those above."""
    if case.meta is None or not case.meta.generation.mode.is_positive or response.status_code not in (400, 410, 412, 422):
        return
    code = response.json()["code"]
    name = case.operation.definition.raw["operationId"]
    assert REASONS.get(code, lambda name, case: False)(name, case), f"{name} refuses what its schemas allow: {response.text}"


@schemathesis.check
def a_bad_command_is_refused_in_its_place(ctx, response, case):
    """Narrows what schemathesis.toml lets negative_data_rejection pass of batches: some command of a bad body was refused."""
    is_bad = case.meta is not None and case.meta.is_negative_at(ParameterLocation.BODY)
    if not is_bad or case.operation.definition.raw["operationId"] != "batch" or response.status_code != 200:
        return
    lines = [json.loads(line) for line in response.content.splitlines()]
    results = [result for line in lines for result in line.get("results", [line])]
    assert any(result["status"] in (400, 404, 422) for result in results), f"nothing was refused: {response.text}"
