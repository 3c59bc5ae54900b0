#!/usr/bin/env bash
# Buys one unit from Tidegate with curl: reserve, repeat safely, confirm, read.
#
#   ./reserve.sh SKU USER [ORDER]
#
# From the environment:
#   STOCK_URL       where the node is               default: http://127.0.0.1:8700
#   STOCK_KEY       API key, sent as a Bearer token default: none is sent
#   STOCK_QUANTITY  open the stock with so many units first (needs a key that may do so); default: the stock is there
#   STOCK_ATTEMPTS  how often one call is tried     default: 8
#   STOCK_TIMEOUT   seconds for one attempt         default: 12, a little more than the node takes to say `timeout`
#
# ORDER names this purchase. A shop stores it *before* the first attempt, so that it can go on with the same name after a crash.
#
# Exit codes: 0 decided, also when the answer is no; 1 not decided, ask again with the same ORDER; 2 wrong usage.
# Needs bash and curl.
set -euo pipefail

if [ $# -lt 2 ] || [ $# -gt 3 ]; then
    echo "usage: $0 SKU USER [ORDER]" >&2
    exit 2
fi
# Identifiers consist of A-Z a-z 0-9 . _ : ~ - and need no escapes, neither in a path nor in JSON.
sku=$1
user=$2
order=${3:-order-$(date +%s)-$RANDOM$RANDOM}
url=${STOCK_URL:-http://127.0.0.1:8700}
attempts_max=${STOCK_ATTEMPTS:-8}
timeout=${STOCK_TIMEOUT:-12}
patience=60 # longest wait between two attempts, in seconds; a node that asks for more is given up

answer=$(mktemp -d)
trap 'rm -rf "$answer"' EXIT

# What curl sends along. On its standard input, and not as an argument: others on the machine can read arguments.
headers() {
    printf 'content-type: application/json\n'
    if [ -n "${STOCK_KEY:-}" ]; then printf 'authorization: Bearer %s\n' "$STOCK_KEY"; fi
    if [ -n "$1" ]; then printf 'idempotency-key: %s\n' "$1"; fi
}

# field NAME: a text or a number of the last answer. Enough here: these values hold no quotes. Elsewhere use jq.
field() {
    sed -n 's/.*"'"$1"'":"\{0,1\}\([^",}]*\).*/\1/p' "$answer/body" | head -n 1
}

# header NAME: a header of the last answer.
header() {
    tr -d '\r' <"$answer/head" | awk -v name="$1:" 'tolower($1) == name { value = $2 } END { print value }'
}

# call METHOD PATH IDEMPOTENCY_KEY [BODY]: sets $status, and leaves the answer to field and header. Fails when nothing is decided.
#
# No answer, or one of these: it may have happened or not. Asking again *with the same key* is right either way: what has happened
# does not happen twice. With a new key it might.
call() {
    local attempt wait_ms wait_asked
    for ((attempt = 1; attempt <= attempts_max; attempt++)); do
        : >"$answer/head"
        : >"$answer/body"
        status=$(headers "$3" | curl --silent --show-error --max-time "$timeout" --connect-timeout 3 --header @- \
            --request "$1" ${4+--data-binary "$4"} --dump-header "$answer/head" --output "$answer/body" \
            --write-out '%{http_code}' "$url$2") || status=none # a broken connection may leave half an answer
        case $status in
        none | 429 | 500 | 502 | 503 | 504) ;;
        *) return 0 ;;
        esac
        # 0.1 s, 0.2 s, 0.4 s, ... up to 5 s, and of that a random part: a thousand clients must not come back together.
        wait_ms=$((100 << (attempt < 7 ? attempt - 1 : 6)))
        wait_ms=$((wait_ms > 5000 ? 5000 : wait_ms))
        wait_ms=$((wait_ms / 2 + RANDOM % (wait_ms / 2 + 1)))
        # The node may say how long to stay away at least, in whole seconds.
        wait_asked=$(header retry-after)
        if [[ $wait_asked =~ ^[0-9]{1,5}$ ]]; then wait_ms=$((wait_ms + 10#$wait_asked * 1000)); fi
        if ((attempt == attempts_max || wait_ms > patience * 1000)); then break; fi
        echo "attempt $attempt: $status $(field code), again in $wait_ms ms" >&2
        sleep "$((wait_ms / 1000)).$(printf %03d $((wait_ms % 1000)))"
    done
    echo "not decided after $attempt attempts (last: $status): ask again with the order $order" >&2
    return 1
}

# The answers that are a plain no are an outcome like any other: tell the buyer.
finish() {
    echo "outcome: $(field code)"
    case $status in
    409) exit 0 ;;
    *)
        echo "unexpected answer $status: $(cat "$answer/body")" >&2
        exit 1
        ;;
    esac
}

if [ -n "${STOCK_QUANTITY:-}" ]; then
    # Safe to repeat without a key: the same stock is the same stock. 409 `stock_exists`: it is there with other settings.
    call PUT "/v1/stocks/$sku" "" "{\"quantity\":$STOCK_QUANTITY}"
    case $status in 200 | 201 | 409) ;; *) finish ;; esac
fi

reserve() {
    call POST "/v1/stocks/$sku/reservations" "$order:reserve" "{\"user\":\"$user\",\"reference\":\"$order\"}"
}

reserve
if [ "$status" != 201 ]; then finish; fi
id=$(field id)
echo "reserved: $id until $(field expires_at)"

# The same call with the same key: a double click, or a worker that starts over. It gets the same reservation, and no second unit.
reserve
if [ "$status" != 201 ]; then finish; fi
if [ "$(field id)" != "$id" ]; then
    echo "the repeat got $(field id) instead of $id" >&2
    exit 1
fi
echo "repeated: $id replayed=$(header idempotency-replayed)"

# Here the buyer pays. Confirm once the money is there: what expired meanwhile answers 409, and the money has to go back.
call POST "/v1/reservations/$id/confirm" "$order:confirm"
if [ "$status" != 200 ]; then finish; fi

call GET "/v1/reservations/$id" ""
if [ "$status" != 200 ]; then finish; fi
echo "outcome: $(field state)"

call GET "/v1/stocks/$sku" ""
if [ "$status" != 200 ]; then finish; fi
echo "stock: available=$(field available) reserved=$(field reserved) sold=$(field sold)"
