#!lua flags=allow-oom
-- Ends a job that its driver has worked off, or cannot go on with. Answers 0 when it is not this driver's.
-- ARGV: ws, id, epoch, status (completed or failed), now, documents listed, error as JSON
local ws, id, epoch, status, now, discovered, problem = unpack(ARGV, 1, 7)
if not holds_job(ws, id, epoch) then return 0 end
note_listed(ws, id, discovered, status == 'completed' and '1' or '')
if status == 'completed' and redis.call('HGET', K.job(ws, id), 'failed') ~= '0' then
  status = 'completed_with_errors'
end
finish_job(ws, id, status, tonumber(now), problem)
return 1
