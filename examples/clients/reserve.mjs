#!/usr/bin/env node
// Buys one unit from Tidegate with Node's own fetch: reserve, repeat safely, confirm, read.
//
//   node reserve.mjs SKU USER [ORDER]
//
// From the environment:
//   STOCK_URL       where the node is               default: http://127.0.0.1:8700
//   STOCK_KEY       API key, sent as a Bearer token default: none is sent
//   STOCK_QUANTITY  open the stock with so many units first (needs a key that may do so); default: the stock is there
//   STOCK_ATTEMPTS  how often one call is tried     default: 8
//   STOCK_TIMEOUT   seconds for one attempt         default: 12, a little more than the node takes to say `timeout`
//
// ORDER names this purchase. A shop stores it *before* the first attempt, so that it can go on with the same name after a crash.
//
// Exit codes: 0 decided, also when the answer is no; 1 not decided, ask again with the same ORDER; 2 wrong usage.
// Needs Node 18 or later, and no packages.

import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";

const WAIT_FIRST_MS = 100;
const WAIT_MAX_MS = 5_000;
// Longest wait between two attempts; a node that asks for more is given up.
const PATIENCE_MS = 60_000;
// With these, and with no answer at all, it may have happened or not, or is only refused for now.
const ASK_AGAIN = new Set([429, 500, 502, 503, 504]);

/** Nobody knows yet, or not with these attempts. Ask again with the same key. */
class Undecided extends Error {}

/** The call itself was wrong: no repeat helps. */
class Unexpected extends Error {}

class Client {
  constructor({ url, key, attemptsMax = 8, timeoutMs = 12_000 }) {
    Object.assign(this, { url: url.replace(/\/+$/, ""), key, attemptsMax, timeoutMs });
  }

  /**
   * Asks until there is an answer that decides, and returns it: also a no, such as 409 `sold_out`.
   *
   * Asking again *with the same key* is right whatever became of the attempt before: what has happened does not happen twice. With a
   * new key it might.
   */
  async call(method, path, { body, idempotencyKey } = {}) {
    for (let attempt = 1; ; attempt += 1) {
      let said;
      let waitAskedMs = 0;
      try {
        const answer = await this.#askOnce(method, path, body, idempotencyKey);
        if (!ASK_AGAIN.has(answer.status)) return answer;
        said = `${answer.status} ${answer.body.code ?? ""}`;
        // The node may say how long to stay away at least, in whole seconds.
        const asked = answer.headers.get("retry-after") ?? "";
        waitAskedMs = /^\d+$/.test(asked) ? Number(asked) * 1_000 : 0;
      } catch (error) {
        // Refused, cut, timed out, or half an answer.
        said = `${error.name}: ${error.cause?.message ?? error.message}`;
      }
      // 0.1 s, 0.2 s, 0.4 s, ..., and of that a random part: a thousand clients must not come back together.
      const backOffMs = Math.min(WAIT_FIRST_MS * 2 ** (attempt - 1), WAIT_MAX_MS);
      const waitMs = waitAskedMs + backOffMs / 2 + (Math.random() * backOffMs) / 2;
      if (attempt >= this.attemptsMax || waitMs > PATIENCE_MS) {
        throw new Undecided(`not decided after ${attempt} attempts (last: ${said})`);
      }
      console.error(`attempt ${attempt}: ${said}, again in ${Math.round(waitMs)} ms`);
      await sleep(waitMs);
    }
  }

  async #askOnce(method, path, body, idempotencyKey) {
    const headers = { "content-type": "application/json" };
    if (this.key) headers.authorization = `Bearer ${this.key}`;
    if (idempotencyKey) headers["idempotency-key"] = idempotencyKey;
    const signal = AbortSignal.timeout(this.timeoutMs);
    const response = await fetch(this.url + path, { method, headers, body: body && JSON.stringify(body), signal });
    const text = await response.text();
    return { status: response.status, headers: response.headers, body: text ? JSON.parse(text) : {} };
  }
}

/** The answer, when it has one of `statuses`. A plain no (409) is the caller's to tell. */
function expect(answer, ...statuses) {
  if (![...statuses, 409].includes(answer.status)) {
    throw new Unexpected(`unexpected answer ${answer.status}: ${JSON.stringify(answer.body)}`);
  }
  return answer;
}

/** Buys one unit, and returns the outcome: `confirmed`, or the word for why not. */
async function buy(client, { sku, user, order, quantity }) {
  if (quantity !== undefined) {
    // Safe to repeat without a key: the same stock is the same stock. 409 `stock_exists`: it is there with other settings.
    expect(await client.call("PUT", `/v1/stocks/${sku}`, { body: { quantity } }), 200, 201);
  }

  const reserve = async () =>
    expect(
      await client.call("POST", `/v1/stocks/${sku}/reservations`, {
        body: { user, reference: order },
        idempotencyKey: `${order}:reserve`,
      }),
      201,
    );

  const answer = await reserve();
  if (answer.status === 409) return answer.body.code; // sold_out, limit_reached, ...: an outcome like any other
  const { id, expires_at } = answer.body;
  console.log(`reserved: ${id} until ${expires_at}`);

  // The same call with the same key: a double click, or a worker that starts over. The same reservation, and no second unit.
  const again = await reserve();
  if (again.body.id !== id) throw new Unexpected(`the repeat got ${JSON.stringify(again.body)} instead of ${id}`);
  console.log(`repeated: ${id} replayed=${again.headers.get("idempotency-replayed")}`);

  // Here the buyer pays. Confirm once the money is there: what expired meanwhile answers 409, and the money has to go back.
  const confirmed = expect(
    await client.call("POST", `/v1/reservations/${id}/confirm`, { idempotencyKey: `${order}:confirm` }),
    200,
  );
  if (confirmed.status === 409) return confirmed.body.code;
  return expect(await client.call("GET", `/v1/reservations/${id}`), 200).body.state;
}

async function main([sku, user, order = `order-${randomUUID()}`, ...more]) {
  if (user === undefined || more.length > 0) {
    console.error(`usage: ${process.argv[1]} SKU USER [ORDER]`);
    return 2;
  }
  const { STOCK_URL, STOCK_KEY, STOCK_QUANTITY, STOCK_ATTEMPTS, STOCK_TIMEOUT } = process.env;
  const client = new Client({
    url: STOCK_URL ?? "http://127.0.0.1:8700",
    key: STOCK_KEY,
    attemptsMax: Number(STOCK_ATTEMPTS ?? 8),
    timeoutMs: Number(STOCK_TIMEOUT ?? 12) * 1_000,
  });
  try {
    const quantity = STOCK_QUANTITY ? Number(STOCK_QUANTITY) : undefined;
    console.log(`outcome: ${await buy(client, { sku, user, order, quantity })}`);
    const stock = expect(await client.call("GET", `/v1/stocks/${sku}`), 200).body;
    console.log(`stock: available=${stock.available} reserved=${stock.reserved} sold=${stock.sold}`);
    return 0;
  } catch (error) {
    if (error instanceof Undecided) console.error(`${error.message}: ask again with the order ${order}`);
    else if (error instanceof Unexpected) console.error(error.message);
    else throw error;
    return 1;
  }
}

process.exitCode = await main(process.argv.slice(2));
