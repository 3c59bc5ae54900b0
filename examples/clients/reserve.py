#!/usr/bin/env python3
"""Buys one unit from Tidegate with Python's standard library: reserve, repeat safely, confirm, read.

    python3 reserve.py SKU USER [ORDER]

From the environment:
    STOCK_URL       where the node is               default: http://127.0.0.1:8700
    STOCK_KEY       API key, sent as a Bearer token default: none is sent
    STOCK_QUANTITY  open the stock with so many units first (needs a key that may do so); default: the stock is there
    STOCK_ATTEMPTS  how often one call is tried     default: 8
    STOCK_TIMEOUT   seconds for one attempt         default: 12, a little more than the node takes to say `timeout`

ORDER names this purchase. A shop stores it *before* the first attempt, so that it can go on with the same name after a crash.

Exit codes: 0 decided, also when the answer is no; 1 not decided, ask again with the same ORDER; 2 wrong usage.
Needs Python 3.9 or later.
"""

import http.client
import json
import os
import random
import sys
import time
import urllib.error
import urllib.request
import uuid

WAIT_FIRST_SECONDS = 0.1
WAIT_MAX_SECONDS = 5.0
# Longest wait between two attempts; a node that asks for more is given up.
PATIENCE_SECONDS = 60.0
# With these, and with no answer at all, it may have happened or not, or is only refused for now.
ASK_AGAIN = {429, 500, 502, 503, 504}


class Undecided(Exception):
    """Nobody knows yet, or not with these attempts. Ask again with the same key."""


class Unexpected(Exception):
    """The call itself was wrong: no repeat helps."""


class Answer:
    def __init__(self, status, headers, body):
        self.status = status
        self.headers = headers
        self.body = json.loads(body) if body else {}

    @property
    def code(self):
        """The stable word for what went wrong."""
        return self.body.get("code", "")


class Client:
    def __init__(self, url, key=None, attempts_max=8, timeout_seconds=12.0):
        self.url = url.rstrip("/")
        self.key = key
        self.attempts_max = attempts_max
        self.timeout_seconds = timeout_seconds

    def call(self, method, path, body=None, idempotency_key=None):
        """Asks until there is an answer that decides, and returns it: also a no, such as 409 `sold_out`.

        Asking again *with the same key* is right whatever became of the attempt before: what has happened does not happen twice.
        With a new key it might.
        """
        for attempt in range(1, self.attempts_max + 1):
            wait_asked = 0.0
            try:
                answer = self._ask_once(method, path, body, idempotency_key)
                if answer.status not in ASK_AGAIN:
                    return answer
                said = f"{answer.status} {answer.code}"
                # The node may say how long to stay away at least, in whole seconds.
                asked = answer.headers.get("retry-after", "")
                wait_asked = float(asked) if asked.isdecimal() else 0.0
            # Refused, cut, timed out, or half an answer.
            except (OSError, http.client.HTTPException, json.JSONDecodeError) as error:
                said = f"{type(error).__name__}: {error}"
            # 0.1 s, 0.2 s, 0.4 s, ..., and of that a random part: a thousand clients must not come back together.
            wait = min(WAIT_FIRST_SECONDS * 2 ** (attempt - 1), WAIT_MAX_SECONDS)
            wait = wait_asked + random.uniform(wait / 2, wait)
            if attempt == self.attempts_max or wait > PATIENCE_SECONDS:
                raise Undecided(f"not decided after {attempt} attempts (last: {said})")
            print(f"attempt {attempt}: {said}, again in {wait:.3f} s", file=sys.stderr)
            time.sleep(wait)
        raise Undecided("not a single attempt was allowed")

    def _ask_once(self, method, path, body, idempotency_key):
        headers = {"content-type": "application/json"}
        if self.key:
            headers["authorization"] = f"Bearer {self.key}"
        if idempotency_key:
            headers["idempotency-key"] = idempotency_key
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, headers=headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=self.timeout_seconds) as response:
                return Answer(response.status, response.headers, response.read())
        except urllib.error.HTTPError as error:
            # An answer too; urllib only calls it an error.
            with error:
                return Answer(error.code, error.headers, error.read())


def expect(answer, *statuses):
    """The answer, when it has one of `statuses`. A plain no (409) is the caller's to tell."""
    if answer.status not in (*statuses, 409):
        raise Unexpected(f"unexpected answer {answer.status}: {answer.body}")
    return answer


def buy(client, sku, user, order, quantity=None):
    """Buys one unit, and returns the outcome: `confirmed`, or the word for why not."""
    if quantity is not None:
        # Safe to repeat without a key: the same stock is the same stock. 409 `stock_exists`: it is there with other settings.
        expect(client.call("PUT", f"/v1/stocks/{sku}", {"quantity": quantity}), 200, 201)

    def reserve():
        body = {"user": user, "reference": order}
        path = f"/v1/stocks/{sku}/reservations"
        return expect(client.call("POST", path, body, idempotency_key=f"{order}:reserve"), 201)

    answer = reserve()
    if answer.status == 409:
        return answer.code  # sold_out, limit_reached, ...: an outcome like any other
    reservation = answer.body["id"]
    print(f"reserved: {reservation} until {answer.body['expires_at']}")

    # The same call with the same key: a double click, or a worker that starts over. The same reservation, and no second unit.
    again = reserve()
    if again.body.get("id") != reservation:
        raise Unexpected(f"the repeat got {again.body} instead of {reservation}")
    print(f"repeated: {reservation} replayed={again.headers.get('idempotency-replayed')}")

    # Here the buyer pays. Confirm once the money is there: what expired meanwhile answers 409, and the money has to go back.
    confirmed = expect(
        client.call("POST", f"/v1/reservations/{reservation}/confirm", idempotency_key=f"{order}:confirm"), 200
    )
    if confirmed.status == 409:
        return confirmed.code
    return expect(client.call("GET", f"/v1/reservations/{reservation}"), 200).body["state"]


def main():
    if len(sys.argv) not in (3, 4):
        print(f"usage: {sys.argv[0]} SKU USER [ORDER]", file=sys.stderr)
        return 2
    sku, user = sys.argv[1:3]
    order = sys.argv[3] if len(sys.argv) == 4 else f"order-{uuid.uuid4()}"
    quantity = os.environ.get("STOCK_QUANTITY")
    client = Client(
        os.environ.get("STOCK_URL", "http://127.0.0.1:8700"),
        os.environ.get("STOCK_KEY"),
        int(os.environ.get("STOCK_ATTEMPTS", "8")),
        float(os.environ.get("STOCK_TIMEOUT", "12")),
    )
    try:
        print("outcome:", buy(client, sku, user, order, int(quantity) if quantity else None))
        stock = expect(client.call("GET", f"/v1/stocks/{sku}"), 200).body
        print("stock:", *(f"{name}={stock[name]}" for name in ("available", "reserved", "sold")))
    except Undecided as error:
        print(f"{error}: ask again with the order {order}", file=sys.stderr)
        return 1
    except Unexpected as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
