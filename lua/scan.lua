-- Reads the keys of one server that match a pattern, a batch per call.
-- KEYS
--   vs:probe{TAG}  NONE  never created; the tag decides the slot, and so the server
-- ARGV
--   call_id        the call id: every reply begins with it
--   cursor         '0': from the beginning; then as returned
--   pattern        which keys, as in SCAN
--   count          about how many keys to look at
-- Status
--   keys           the next cursor, '0': the end; the keys that were found, perhaps none
local call_id, cursor, pattern, count = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local scanned = redis.call('SCAN', cursor, 'MATCH', pattern, 'COUNT', count)
local reply = {call_id, 'keys', scanned[1]}
for _, key in ipairs(scanned[2]) do
  reply[#reply + 1] = key
end
return reply
