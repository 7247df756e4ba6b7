-- Stores how the engine maps codes to slots, or returns the mapping that an earlier engine of the prefix has stored.
-- KEYS
--   vs:partition  STRING  '1 ' (the format), then the fingerprint of the mapping
-- ARGV
--   call_id       the call id: every reply begins with it
--   fingerprint   the fingerprint of this engine's mapping
-- Status
--   partition     the fingerprint that is stored
local book_key = KEYS[1] -- under this name the block `refuse` reads the key that it names
local call_id, fingerprint = ARGV[1], ARGV[2]
local value = redis.call('GET', book_key)
if not value then
  redis.call('SET', book_key, '1 ' .. fingerprint)
  return {call_id, 'partition', fingerprint}
end
local stored = string.match(value, '^1 (%w+)$')
if not stored then
  -- include: refuse
end
return {call_id, 'partition', stored}
