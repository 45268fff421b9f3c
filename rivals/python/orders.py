"""Order events recorded with the Python package eventsourcing, and folded into a table by a projection of its own.

    orders.py record ORDERS URL     records two events of each order
    orders.py fold ORDERS URL       folds all of them into an empty table; prints the seconds that took
"""

import sys
import time
from urllib.parse import unquote, urlsplit
from uuid import uuid4

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from eventsourcing.postgres import PostgresTrackingRecorder
from eventsourcing.projection import Projection, ProjectionRunner
from eventsourcing.utils import get_topic
from psycopg.sql import SQL


class Order(Aggregate):
    @event("Placed")
    def __init__(self, user_id: str, amount: int, currency: str, address: str, note: str) -> None:
        self.user_id = user_id
        self.amount = amount
        self.currency = currency
        self.address = address
        self.note = note
        self.status = "pending"

    @event("Completed")
    def complete(self) -> None:
        self.status = "completed"


class Orders(Application):
    pass


class OrdersTable(PostgresTrackingRecorder):
    """The table, with how far it is in the same transactions."""

    def __init__(self, datastore, **kwargs):
        super().__init__(datastore, **kwargs)
        self.sql_create_statements.append(
            SQL(
                "CREATE TABLE IF NOT EXISTS orders (order_id uuid PRIMARY KEY, user_id text, status text,"
                " amount bigint, currency text)"
            )
        )

    def placed(self, order, tracking) -> None:
        with self.datastore.transaction(commit=True) as cursor:
            cursor.execute(
                "INSERT INTO orders (order_id, user_id, status, amount, currency) VALUES (%s, %s, 'pending', %s, %s)",
                (order.originator_id, order.user_id, order.amount, order.currency),
                prepare=True,
            )
            self._insert_tracking(cursor, tracking=tracking)

    def completed(self, order, tracking) -> None:
        with self.datastore.transaction(commit=True) as cursor:
            cursor.execute(
                "UPDATE orders SET status = 'completed' WHERE order_id = %s", (order.originator_id,), prepare=True
            )
            self._insert_tracking(cursor, tracking=tracking)


class OrdersProjection(Projection[OrdersTable]):
    name = "orders_table"
    topics = (get_topic(Order.Placed), get_topic(Order.Completed))

    def process_event(self, domain_event, tracking) -> None:
        if isinstance(domain_event, Order.Placed):
            self.view.placed(domain_event, tracking)
        else:
            self.view.completed(domain_event, tracking)


def environment(url: str) -> dict:
    parts = urlsplit(url)
    return {
        "PERSISTENCE_MODULE": "eventsourcing.postgres",
        "POSTGRES_DBNAME": parts.path.lstrip("/"),
        "POSTGRES_HOST": parts.hostname,
        "POSTGRES_PORT": str(parts.port),
        "POSTGRES_USER": unquote(parts.username),
        "POSTGRES_PASSWORD": unquote(parts.password),
    }


def record(orders: int, env: dict) -> None:
    app = Orders(env)
    for first in range(0, orders, 100):
        chunk = []
        for _ in range(first, min(first + 100, orders)):
            order = Order(
                user_id=str(uuid4()),
                amount=4300,
                currency="EUR",
                address="Ada Lovelace, 12 St James's Square, SW1Y 4JH London, GB",
                note="two bags of green tea and a white cup, please ring twice",
            )
            order.complete()
            chunk.append(order)
        app.save(*chunk)
    app.close()


def fold(orders: int, env: dict) -> None:
    app = Orders(env)
    with app.recorder.datastore.transaction(commit=True) as cursor:
        for table in ("orders", "orders_table_tracking"):
            cursor.execute(f"DROP TABLE IF EXISTS {table}")
    last = app.recorder.max_notification_id()
    app.close()
    started = time.monotonic()
    with ProjectionRunner(
        application_class=Orders, projection_class=OrdersProjection, view_class=OrdersTable, env=env
    ) as runner:
        runner.wait(last, timeout=600)
        took = time.monotonic() - started
        with runner.view.datastore.transaction() as cursor:
            cursor.execute("SELECT count(*) AS completed FROM orders WHERE status = 'completed'")
            completed = cursor.fetchone()["completed"]
    if completed != orders:
        raise SystemExit(f"{completed} of {orders} orders are completed")
    print(took)


if __name__ == "__main__":
    what, count, address = sys.argv[1:]
    {"record": record, "fold": fold}[what](int(count), environment(address))
