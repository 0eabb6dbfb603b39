-- A successor of a key, which ends now or gets a record with its end. ARGV: workspace, key id, its record as read ('' it
-- is gone), its new record ('' ends it), successor id, hash, record, a successor whose secret was lost ('' none), audit.
local ws, id, was, left, new, hash, record, lost, audit = unpack(ARGV)
if (redis.call('HGET', K.key(id), 'record') or '') ~= was then return 0 end
if left ~= '' then
  redis.call('HSET', K.key(id), 'record', left)
  access_changed(id)
elseif was ~= '' then
  end_key(ws, id)
end
if lost ~= '' then end_key(ws, lost) end
keep_key(ws, new, hash, record)
note_audit(ws, audit)
return 1
