-- Records that a credential is used, once an hour for each of its users. ARGV: ws, id, user, audit entry
local ws, id = ARGV[1], ARGV[2]
if redis.call('SET', K.credential_noted(ws, id, ARGV[3]), '1', 'NX', 'EX', 3600) then note_vault(ws, id, ARGV[4]) end
