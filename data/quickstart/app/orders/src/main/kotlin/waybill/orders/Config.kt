package waybill.orders

object Config {
    val databaseUrl = "jdbc:postgresql://db.internal.example/orders"
    val databasePassword = "example-orders-password"
    val sessionSecret = "example-session-secret"
    val pricesUrl = "http://prices.internal.example/v2"
}
