#!lua flags=allow-oom
-- Ends a job at once; what its driver has under way comes too late to be written.
-- ARGV: ws, id, now
local ws, id, now = unpack(ARGV, 1, 3)
local status = redis.call('HGET', K.job(ws, id), 'status')
if status ~= 'queued' and status ~= 'running' then return status or '' end
finish_job(ws, id, 'cancelled', tonumber(now), '')
redis.call('PUBLISH', C.jobs(), ws .. ' ' .. id)
return 'cancelled'
