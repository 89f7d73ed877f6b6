"""Names of the columns that several tables share; each name stands here only.

A name means the same thing in every table. ``ts`` is a timestamp in the tables of events and epoch
seconds in ranking_samples, whose rows go to the trainer as they are.
"""

# Items and users: the source's own id, and the dense index that arrays use.
ITEM_ID = "item_id"
ITEM_IDX = "item_idx"
USER_ID = "user_id"
USER_IDX = "user_idx"
FIRST_SEEN = "first_seen"
REMOVED_AT = "removed_at"
SOURCE_TYPE = "source_type"
CONTENT_HASH = "content_hash"

# Events and the split.
EVENT = "event"
TS = "ts"
WEIGHT = "weight"
PART = "part"
SPLIT_ID = "split_id"

# Pairs.
TRIGGER = "trigger"
TARGET = "target"
SOURCE = "source"
SCORE = "score"

# Vectors and codes.
VECTOR = "vector"
ENCODER_VERSION = "encoder_version"
CODEBOOK_ID = "codebook_id"

# Samples, predictions and figures.
SAMPLE_ID = "sample_id"
IS_REPEAT = "is_repeat"
ITEM_TRAIN_EVENTS = "item_train_events"
VARIANT = "variant"
SEED = "seed"
VALUE = "value"
RUN_ID = "run_id"

#: What names an event once ids are indices.
EVENT_KEY = (USER_IDX, ITEM_IDX, EVENT, TS)
