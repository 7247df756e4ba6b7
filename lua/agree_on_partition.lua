-- Remembers how the engines of a prefix map codes to slots, or tells how the first of them did.
-- KEYS
--   vs:partition  STRING  the fingerprint of the mapping
-- ARGV
--   fingerprint   of this engine's mapping
-- Status
--   partition     the fingerprint that is remembered
local remembered = redis.call('GET', KEYS[1])
if not remembered then
  remembered = ARGV[1]
  redis.call('SET', KEYS[1], remembered)
end
return {'partition', remembered}
