-- The HTTP door of a sale: a reservation's body in, the script in Redis, the outcome out. Statuses and codes are those of Tidegate's
-- contract, so that all sides get the same requests and are judged alike.
local redis = require "nginx.redis"
local json = require "cjson.safe"

local ngx, decode, encode = ngx, json.decode, json.encode

-- Milliseconds that Redis may take, that an idle connection is kept, and how many connections each worker keeps.
local ANSWER_MS_MAX, IDLE_MS_MAX, KEPT = 5000, 60000, 1024
-- Seconds for which a sold-out product is not asked for again, so that units which come back are seen.
local SOLD_OUT_SECONDS = 1
-- What stands in a path around the product's name.
local BEFORE, AFTER = #"/v1/stocks/", #"/reservations"

local function answer(status, body)
    local text = encode(body)
    ngx.status = status
    ngx.header["Content-Length"] = #text
    ngx.print(text)
end

local M = {}

-- socket: where Redis listens; digest: the script's; remembers: whether sold-out products are remembered in this process' shared dictionary.
function M.new(socket, digest, remembers)
    return function()
        local uri = ngx.var.uri
        local sku = uri:sub(BEFORE + 1, -AFTER - 1)
        if remembers and ngx.shared.sold_out:get(sku) then
            return answer(409, { code = "sold_out", status = 409 })
        end
        ngx.req.read_body()
        local order = decode(ngx.req.get_body_data() or "")
        if not order or type(order.user) ~= "string" or order.quantity ~= 1 then
            return answer(400, { code = "invalid_request", status = 400 })
        end
        local connection = redis:new()
        connection:set_timeout(ANSWER_MS_MAX)
        local ok, failure = connection:connect(socket)
        if not ok then
            ngx.log(ngx.ERR, "connecting to Redis: ", failure)
            return answer(503, { code = "overloaded", status = 503 })
        end
        local result
        result, failure = connection:evalsha(digest, 3, sku .. ":stock", sku .. ":users", sku .. ":orders", order.user)
        if not result then
            ngx.log(ngx.ERR, "asking Redis: ", failure)
            return answer(503, { code = "outcome_unknown", status = 503 })
        end
        connection:set_keepalive(IDLE_MS_MAX, KEPT)
        if result == 1 then
            return answer(201, { sku = sku, user = order.user, quantity = 1, state = "reserved" })
        end
        if result == -1 then
            return answer(409, { code = "limit_reached", status = 409 })
        end
        if remembers then
            ngx.shared.sold_out:set(sku, true, SOLD_OUT_SECONDS)
        end
        return answer(409, { code = "sold_out", status = 409 })
    end
end

return M
