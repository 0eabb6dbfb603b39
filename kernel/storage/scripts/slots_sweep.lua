#!lua flags=allow-oom
-- Looks at some executions that hold a slot of a workspace, and frees the slots of those that do not run.
-- ARGV: ws, cursor ('0' to begin with). Answer: the next cursor ('0' at the end), then the executions that had leaked
local ws = ARGV[1]
local cursor, ids = unpack(redis.call('SSCAN', K.active(ws), ARGV[2], 'COUNT', 500))
local out = {cursor}
for _, id in ipairs(ids) do
  if redis.call('HGET', K.execution(ws, id), 'status') ~= 'running' and redis.call('SREM', K.active(ws), id) == 1 then
    out[#out + 1] = id
  end
end
if redis.call('EXISTS', K.active(ws)) == 0 then redis.call('SREM', K.busy(), ws) end
return out
