#!lua flags=allow-oom
-- A runner's last commit, which ends its execution. ARGV: as of execution_commit, then status, shown, facts…
local ws, id = ARGV[1], ARGV[2]
local lines, at = take_step(ws, id)
if not lines then return at end
finish(ws, id, ARGV[at], ARGV[5], {unpack(ARGV, at + 2)}, ARGV[at + 1])
if #lines > 0 then announce(ws, id, ARGV[4] + 1, lines) end
return 1
