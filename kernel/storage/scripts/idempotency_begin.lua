-- ARGV: key, fingerprint, owner, now, until, keep_ms
-- Answers {mine, resource} | {done, status, headers, body, sealed} | {pending} | {mismatch}.
local key, fingerprint, owner, now, till, keep = unpack(ARGV)
local was = redis.call('HMGET', key, 'fingerprint', 'state', 'until', 'resource')

if was[1] and was[1] ~= fingerprint then return {'mismatch'} end
if was[2] == 'done' then
  local answer = redis.call('HMGET', key, 'status', 'headers', 'body', 'sealed')
  return {'done', answer[1], answer[2], answer[3], answer[4]}
end
if was[1] and tonumber(was[3]) > tonumber(now) then return {'pending'} end

redis.call('HSET', key, 'fingerprint', fingerprint, 'state', 'pending', 'owner', owner, 'until', till)
redis.call('PEXPIRE', key, keep)
return {'mine', was[4] or ''}
