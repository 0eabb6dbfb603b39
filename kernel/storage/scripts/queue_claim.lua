#!lua flags=allow-oom
-- Gives a runner up to `most` executions, a workspace after the other, each under a new epoch.
-- ARGV: runner, lease ms, most
local runner, lease, most = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local now, out = server_now(), {}
while #out < most do
  local ws = redis.call('ZRANGE', K.ring(), 0, 0)[1]
  if not ws then break end
  local id = redis.call('ZPOPMIN', K.queue(ws))[1]
  if redis.call('ZCARD', K.queue(ws)) == 0 then
    redis.call('ZREM', K.ring(), ws)
  else
    redis.call('ZADD', K.ring(), redis.call('INCR', K.tick()), ws)
  end
  local record = id and K.execution(ws, id)
  local was = id and redis.call('HMGET', record, 'status', 'epoch', 'spec', 'seq', 'started_at', 'cancel', 'deliveries',
    'reply_to', 'created_at', 'cap', 'cap_tokens')
  if was and was[1] == 'running' then
    local epoch, started = was[2] + 1, was[5] or now
    redis.call('HSET', record, 'owner', runner, 'epoch', epoch, 'started_at', started,
      'deliveries', was[7] + 1, 'phase', was[6] and 'cancelling' or 'executing')
    redis.call('SADD', K.held(runner), ws .. ' ' .. id)
    out[#out + 1] = {ws, id, epoch, was[3], tonumber(was[4]), tonumber(started), was[6] and 1 or 0,
      redis.call('EXISTS', K.nodes(ws, id)), was[8] == '' and 0 or 1, tonumber(was[9]), was[10] or '', was[11] or ''}
  end
end
if #out > 0 then redis.call('ZADD', K.leases(), now + lease, runner) end
if redis.call('EXISTS', K.ring()) == 1 then wake() end
return out
