-- wrk script: GET with each key in turn, from the file REQ_KEYS, a key a line. Prints RESULT as peers/lib/req.lua does.
local keys, at = {}, 0
for line in io.lines(os.getenv("REQ_KEYS")) do keys[#keys + 1] = "Bearer " .. line end
request = function()
  at = at % #keys + 1
  return wrk.format("GET", nil, { ["Authorization"] = keys[at] })
end
done = function(s, l, r)
  io.write(string.format("RESULT\t%.1f\t%.2f\t%.2f\t%d\t%d\t%d\n", s.requests / (s.duration / 1e6), l:percentile(50) / 1000,
    l:percentile(99) / 1000, s.errors.status, s.errors.connect + s.errors.read + s.errors.write + s.errors.timeout, s.requests))
end
