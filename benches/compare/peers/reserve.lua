-- The usual script of a sale in Redis: one unit of a product for a user, at most one a user, only while units remain.
-- KEYS: the stock's counter, the set of users who have a unit, the stream of orders. ARGV: the user.
-- Gives 1 when the unit is theirs, 0 when none is left, -1 when they have one already.
local stock = redis.call('GET', KEYS[1])
if not stock or tonumber(stock) < 1 then
    return 0
end
-- Adding tells whether the user was there, so that one call looks and remembers.
if redis.call('SADD', KEYS[2], ARGV[1]) == 0 then
    return -1
end
redis.call('DECR', KEYS[1])
redis.call('XADD', KEYS[3], '*', 'user', ARGV[1])
return 1
