#!lua flags=allow-oom
-- Extends a driver's leases on jobs of this shard, and notes how far their listing is. Answers 1 for each that it holds.
-- ARGV: lease ms, then of each: ws, id, epoch, documents listed, 1 when that is all of them
local ends, out = server_now() + ARGV[1], {}
for i = 2, #ARGV, 5 do
  local ws, id, epoch, discovered, listed = unpack(ARGV, i, i + 4)
  local held = holds_job(ws, id, epoch)
  if held then
    redis.call('ZADD', K.jobs_running(), ends, ws .. ' ' .. id)
    note_listed(ws, id, discovered, listed)
  end
  out[#out + 1] = held and 1 or 0
end
return out
