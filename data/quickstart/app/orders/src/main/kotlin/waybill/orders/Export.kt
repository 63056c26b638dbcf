package waybill.orders

import java.io.File
import java.sql.Connection

class Export(private val db: Connection, private val folder: File) {
    fun month(month: String, fileName: String): File {
        val out = File(folder, fileName)
        val rows = db.createStatement().executeQuery("SELECT id, total FROM orders WHERE month = '$month'")
        out.printWriter().use { writer -> while (rows.next()) writer.println(rows.getString(1)) }
        return out
    }

    fun compress(fileName: String) {
        Runtime.getRuntime().exec("gzip " + fileName)
    }
}
