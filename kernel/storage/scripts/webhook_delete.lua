#!lua flags=allow-oom
-- Ends an endpoint that still is at the revision that was read, with all its deliveries; else answers 0.
-- ARGV: ws, id, revision, audit entry
local ws, id = ARGV[1], ARGV[2]
local was = redis.call('HMGET', K.webhook(ws, id), 'revision', 'state', 'events')
if was[1] ~= ARGV[3] then return 0 end
if was[2] == 'enabled' then count_wants(ws, was[3], -1) end
forget_webhook(ws, id)
redis.call('ZREM', K.webhooks(ws), id)
redis.call('SREM', K.sealed(), ws .. ' wh ' .. id)
note_audit(ws, ARGV[4])
return 1
