"""The catalogue."""

from schemas.columns import CONTENT_HASH, FIRST_SEEN, ITEM_ID, ITEM_IDX, REMOVED_AT, SOURCE_TYPE
from schemas.table import CHANGE_FEED, Table, col

TABLE = Table(
    name="items",
    comment="One row per item that the catalogue or the log has ever named",
    columns=(
        col(ITEM_ID, "string", "The source's own id, as text"),
        col(
            ITEM_IDX,
            "bigint",
            "Index in arrays: dense, 0-based, append-only, never reused",
        ),
        col(FIRST_SEEN, "timestamp", "First event (UTC); null: no event yet", nullable=True),
        col(REMOVED_AT, "timestamp", "When it left the catalogue; null: present", nullable=True),
        col(CONTENT_HASH, "string", "SHA-256 of all content columns below"),
        col(SOURCE_TYPE, "string", "Type of the id in the source, such as bigint"),
        col("title", "string", "Short name for people; null: none", nullable=True),
        col("text", "string", "All text fields joined, for the encoder; null: none", nullable=True),
        col("image", "binary", "Encoded image (JPEG, PNG); null: none", nullable=True),
        col(
            "image_uri",
            "string",
            "URI of the image if not in the row; null: none",
            nullable=True,
        ),
        col("audio", "array<float>", "Audio vector of the source; null: none", nullable=True),
        col(
            "attributes",
            "map<string,array<string>>",
            "Field -> values, such as genres; null: none",
            nullable=True,
        ),
    ),
    key=(ITEM_ID,),
    constraints={"item_idx_not_negative": "item_idx >= 0"},
    properties=CHANGE_FEED,
)
