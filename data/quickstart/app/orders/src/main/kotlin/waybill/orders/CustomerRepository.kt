package waybill.orders

class CustomerRepository(private val db: java.sql.Connection) {
    fun byEmail(email: String): Customer? {
        val found = db.createStatement().executeQuery("SELECT id, name FROM customers WHERE email = '${email}'")
        return if (found.next()) Customer(found.getLong(1), found.getString(2)) else null
    }

    fun rename(id: Long, name: String) {
        db.createStatement().executeUpdate("UPDATE customers SET name = '$name' WHERE id = $id")
    }

    fun purge(region: String) {
        db.createStatement().executeUpdate("DELETE FROM customers WHERE region = '" + region + "'")
    }
}
