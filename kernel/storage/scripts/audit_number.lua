#!lua flags=allow-oom
-- Numbers the entries of an audit log that has none numbered. ARGV: ws
local ws = ARGV[1]
if redis.call('EXISTS', K.audit_order(ws)) == 1 then return end
for _, text in ipairs(redis.call('ZRANGE', K.audit(ws), 0, -1)) do
  redis.call('RPUSH', K.audit_order(ws), (string.match(text, '^(%S+) ')))
  redis.call('SADD', K.audit_open(), ws)
end
