"""A small export in the shape of a shop system's: order lines with HTML products."""

from pathlib import Path

ORDERS_HEADER = "Name,Email,Paid at,Created at,Total,Lineitem name,Lineitem sku,Notes"
PRODUCTS_HEADER = "Handle,Title,Body (HTML),Vendor,Product Category,Variant SKU"

SHOP_SETTINGS = {
    "columns": {
        "user_id": "Email",
        "item_id": "Lineitem sku",
        "timestamp": "Created at",
        "order_id": "Name",
    },
    "item_columns": {
        "item_id": "Variant SKU",
        "title": "Title",
        "categories": "Product Category",
        "brand": "Vendor",
        "description": "Body (HTML)",
    },
    "missing_fields": "drop",
    "fold_users": True,
}


def write_shop(folder: Path, num_users: int = 10) -> tuple[str, str]:
    """Two files: each user has three orders of two lines, newest first.

    The user and the time stand only on the last line of an order, as a file that is newest first
    turns an order round; of user 0 one address is in capitals. One line is a tip without an id, and
    one order has no user at all.

    Returns:
        The paths of orders and products.
    """
    rows = []
    for order in reversed(range(num_users * 3)):
        user, month = order % num_users, order // num_users + 1
        email = f"user{user}@example.com"
        if order == 0:
            email = email.upper() + " "
        for line in range(2):
            item = (user + 2 * (month - 1) + line) % 12
            head = f"{email},yes,2024-0{month}-02 10:00:0{line} -0400,9.5" if line else ",,,"
            note = '"please\nring, ""twice"""' if line else ""
            rows.append(f'#{order},{head},"Lamp, {item}""",SKU-{item},{note}')
    rows.insert(0, "#900,user1@example.com,yes,2024-05-02 10:00:00 -0400,9.5,Tip,,")
    rows.insert(0, "#901,,yes,2024-05-03 10:00:00 -0400,9.5,Lamp,SKU-1,")
    products = [
        f'lamp-{n},"Lamp {n} 6"" &amp; Shade","<p>Good <b>light</b>&nbsp;{n}</p>\n<ul><li>x</li>'
        f'</ul>",Ace,Home > Lamps,SKU-{n}'
        for n in range(12)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    orders, items = folder / "orders.csv", folder / "products.csv"
    orders.write_text("\ufeff" + "\n".join([ORDERS_HEADER, *rows, ""]), encoding="utf-8")
    items.write_text("\ufeff" + "\n".join([PRODUCTS_HEADER, *products, ""]), encoding="utf-8")
    return str(orders), str(items)
