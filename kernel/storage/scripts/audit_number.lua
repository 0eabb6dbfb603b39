#!lua flags=allow-oom
-- Numbers the entries of an audit log that were written before entries were numbered: they stand first. ARGV: ws
local ws, order = ARGV[1], K.audit_order(ARGV[1])
local known, before = {}, {}
for _, id in ipairs(redis.call('LRANGE', order, 0, -1)) do known[id] = true end
for _, text in ipairs(redis.call('ZRANGE', K.audit(ws), 0, -1)) do
  local id = string.match(text, '^(%S+) ')
  if not known[id] then before[#before + 1] = id end
end
if #before == 0 or redis.call('EXISTS', K.audit_chain(ws)) == 1 then return end
for i = #before, 1, -1 do redis.call('LPUSH', order, before[i]) end
redis.call('SADD', K.audit_open(), ws)
