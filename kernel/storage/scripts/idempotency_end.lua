#!lua flags=allow-oom
-- ARGV: key, owner, keep_ms, status, headers, body, sealed. An empty status gives the claim up.
local key, owner, keep, status, headers, body, sealed = unpack(ARGV)
if redis.call('HGET', key, 'owner') ~= owner then return 0 end

if status ~= '' then
  redis.call('HSET', key, 'state', 'done', 'status', status, 'headers', headers, 'body', body, 'sealed', sealed)
  redis.call('PEXPIRE', key, keep)
elseif redis.call('HEXISTS', key, 'resource') == 1 then
  redis.call('HSET', key, 'until', 0)
else
  redis.call('DEL', key)
end
return 1
