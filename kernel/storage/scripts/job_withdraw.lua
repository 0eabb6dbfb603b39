#!lua flags=allow-oom
-- Takes a block back from whoever may still be at it, so that its documents can come in other blocks: it counts as
-- settled from now on. Asked again, it answers the same. Answers {'ok'} | {'counted'}: it is settled | {'lost', status}.
-- ARGV: ws, id, epoch, block
local ws, id, epoch, block = unpack(ARGV)
local record = K.job(ws, id)
if not holds_job(ws, id, epoch) then return {'lost', redis.call('HGET', record, 'status') or ''} end
if redis.call('SETBIT', K.job_blocks(ws, id), block, 1) == 0 then
  redis.call('HSET', record, 'withdrawn', block)
end
return {redis.call('HGET', record, 'withdrawn') == block and 'ok' or 'counted'}
