package waybill.orders

import java.sql.Connection

class OrderRepository(private val db: Connection) {
    fun byCustomer(customer: String): List<Order> {
        val statement = db.createStatement()
        val rows = statement.executeQuery("SELECT * FROM orders WHERE customer = '$customer'")
        return rows.use { it.toOrders() }
    }

    fun search(term: String, limit: Int): List<Order> {
        val statement = db.createStatement()
        val rows = statement.executeQuery("SELECT * FROM orders WHERE note LIKE '%" + term + "%' LIMIT " + limit)
        return rows.use { it.toOrders() }
    }

    fun cancel(orderId: String): Int {
        val statement = db.createStatement()
        return statement.executeUpdate("UPDATE orders SET state = 'cancelled' WHERE id = '$orderId'")
    }
}
