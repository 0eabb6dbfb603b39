#!lua flags=allow-oom
-- Extends a runner's lease in this shard and tells what it still holds, with the phase of each.
-- ARGV: runner, lease ms
redis.call('ZADD', K.leases(), server_now() + ARGV[2], ARGV[1])
local out = {}
for _, member in ipairs(redis.call('SMEMBERS', K.held(ARGV[1]))) do
  local ws, id = string.match(member, '^(%S+) (%S+)$')
  out[#out + 1] = {member, redis.call('HGET', K.execution(ws, id), 'phase') or ''}
end
if #out == 0 then redis.call('ZREM', K.leases(), ARGV[1]) end
return out
