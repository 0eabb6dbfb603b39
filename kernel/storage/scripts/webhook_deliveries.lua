#!lua flags=no-writes
-- A page of an endpoint's deliveries, newest first; nothing when there is no such endpoint (`signing` always is).
-- ARGV: ws, webhook, status ('' any), before, offset, limit
-- Answer: total, then of up to limit + 1: event id, delivery, when it is due (nothing unless it waits)
local ws, webhook, status = ARGV[1], ARGV[2], ARGV[3]
if webhook ~= 'signing' and redis.call('EXISTS', K.webhook(ws, webhook)) == 0 then return false end
local log = status == '' and K.webhook_log(ws, webhook) or K.webhook_log_by(ws, webhook, status)
local ids, total = page({log}, '-', '+', ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6]))
local out = {total}
for _, id in ipairs(ids) do
  out[#out + 1] = {id, redis.call('HGET', K.webhook_deliveries(ws, webhook), id),
    redis.call('ZSCORE', K.webhook_queue(ws, webhook), id)}
end
return out
