#!lua flags=allow-oom
-- Gives up the turn to ask for a credential's next access token, if it still is one's own. ARGV: ws, id, owner
local turn = K.refreshing(ARGV[1], ARGV[2])
if redis.call('GET', turn) == ARGV[3] then redis.call('DEL', turn) end
